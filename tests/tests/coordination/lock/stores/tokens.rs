//! Locks that are handed over by a token.

use super::*;

on_every_store! { "locks":
    token_hands_lock_over
    adoption_loses_lock_for_former_holder
    abandoned_lock_is_free_after_ttl
    abandoned_lock_can_be_renewed_and_released
    token_is_valid_for_one_grant
    token_of_waiter_gives_no_lock
}

async fn token_hands_lock_over(bench: Bench) {
    let lock = acquire(&bench.lock().info("first")).await;
    let (key, fence, lease) = (lock.key().clone(), lock.fence(), lock.lease_id());
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    let text = lock.into_token().to_string();
    assert_eq!(text, format!("{key}@{fence}#{lease}"));
    let token: Token = serde_json::from_str(&serde_json::to_string(&text.parse::<Token>().unwrap()).unwrap()).unwrap();
    assert_eq!((token.key(), token.fence(), token.lease_id()), (&key, fence, lease));

    let adopted = bench.lock().info("second").adopt(&token).await.unwrap();
    assert_eq!((adopted.key(), adopted.fence()), (&key, fence));
    assert_ne!(adopted.lease_id(), lease);
    adopted.verify().await.unwrap();
    let holder = bench.lock().holder().await.unwrap().unwrap();
    assert_eq!((holder.key, holder.fence, holder.info.as_str()), (key, fence, "second"));
    sleep(WHILE).await;
    assert!(adopted.is_held() && !waiter.is_finished());
    adopted.release().await.unwrap();
    let next = waiter.await.unwrap();
    assert!(next.fence() > fence);
    assert_eq!(bench.lock().adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
    next.verify().await.unwrap();
}

async fn adoption_loses_lock_for_former_holder(bench: Bench) {
    let foreigner = bench.foreigner().await;
    let path = if foreigner.namespace().is_root() { format!("{}/x", bench.client.namespace()) } else { "/x".to_owned() };
    for settled in [Duration::ZERO, WHILE] {
        // Both locks use the same info, so on v2 the key looks the same after the adoption.
        let (named, theirs) = (bench.lock().info("same"), foreigner.lock(&path).info("same"));
        let before = acquire(&named).await;
        sleep(settled).await;
        let token = named.holder().await.unwrap().unwrap().token();
        let after = theirs.adopt(&token).await.unwrap();
        if settled.is_zero() {
            // A guard that was held longer learns of the adoption from its watch.
            assert_eq!(before.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
        }
        let reason = lost(before).await;
        assert!(matches!(reason, LostReason::TakenOver | LostReason::Revoked), "{reason}");
        // The cleanup of the former holder does not affect the new holder.
        sleep(WHILE).await;
        after.verify().await.unwrap();
        assert!(after.is_held());
        after.release().await.unwrap();
    }
}

async fn abandoned_lock_is_free_after_ttl(bench: Bench) {
    let lock = acquire(&bench.lock().ttl(Duration::from_secs(2))).await;
    let _token = lock.into_token();
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    let lock = acquire(&bench.lock()).await;
    lock.verify().await.unwrap();
}

async fn abandoned_lock_can_be_renewed_and_released(bench: Bench) {
    let named = bench.lock().ttl(Duration::from_secs(2));
    let token = acquire(&named).await.into_token();
    let renewed = named.renew(&token, Duration::from_secs(60)).await.unwrap();
    assert_eq!((renewed.key(), renewed.fence()), (token.key(), token.fence()));
    assert_ne!(renewed.lease_id(), token.lease_id());
    // The lock outlives its first time to live.
    sleep(Duration::from_millis(3500)).await;
    let holder = named.holder().await.unwrap().unwrap();
    assert_eq!((&holder.key, holder.fence), (token.key(), token.fence()));
    // The earlier token is invalid now. v2 has no leases, so it cannot distinguish the two tokens.
    if bench.transactions() {
        assert_eq!(named.release_token(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(named.adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(named.renew(&token, LIMIT).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(holder.token(), renewed);
    }
    named.release_token(&renewed).await.unwrap();
    assert_eq!(named.holder().await.unwrap(), None);
    assert_eq!(named.release_token(&renewed).await.unwrap_err().kind(), ErrorKind::GuardLost);
    // A current holder learns that its lock was released by token.
    let lock = acquire(&named).await;
    named.release_token(&named.holder().await.unwrap().unwrap().token()).await.unwrap();
    let reason = lost(lock).await;
    assert!(matches!(reason, LostReason::KeyDeleted | LostReason::Revoked), "{reason}");
}

async fn token_is_valid_for_one_grant(bench: Bench) {
    let token = acquire(&bench.lock()).await.into_token();
    for other in ["/y", "/x/y"] {
        let other = bench.client.lock(other);
        assert_eq!(other.adopt(&token).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(other.renew(&token, LIMIT).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(other.release_token(&token).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    // A token with the same key and another fence belongs to another grant.
    let text = token.to_string();
    let other = text.replace(&format!("@{}#", token.fence()), &format!("@{}#", token.fence().next()));
    let other: Token = other.parse().unwrap();
    for error in [
        bench.lock().adopt(&other).await.unwrap_err(),
        bench.lock().renew(&other, LIMIT).await.unwrap_err(),
        bench.lock().release_token(&other).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(token.key())));
    }
    for nonsense in ["", "/x", "/x/1@2", "/x/1#2", "x@1#2", "/x/1@#2", "/x/1@2#", "/x/1@2#0", "/x/1@two#2", "/x/1@2#xyz", "/x/1@2#3#hex"] {
        assert!(nonsense.parse::<Token>().is_err(), "{nonsense}");
    }
    bench.lock().release_token(&token).await.unwrap();
}

async fn token_of_waiter_gives_no_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    let token = bench.lock().queue().await.unwrap()[1].token();
    assert_eq!(bench.lock().adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(bench.lock().renew(&token, LIMIT).await.unwrap_err().kind(), ErrorKind::GuardLost);
    lock.verify().await.unwrap();
    lock.release().await.unwrap();
    assert_eq!(waiter.await.unwrap().fence(), token.fence());
}
