//! The methods of single entries.

use super::*;

etcd_typed_tests::on_every_store! { "typed":
    set_value_is_read
    second_create_reports_existing_value
    replace_needs_existing_key
    swap_returns_previous_value
    compare_and_swap_checks_expected_value
    compare_and_delete_checks_expected_value
    delete_returns_previous_value
    equal_values_match_in_any_stored_form
    missing_key_reads_as_default
    changes_report_default_of_missing_key
    concurrent_modifies_lose_nothing
    expired_entry_is_deleted
    ended_lease_deletes_entry
    watch_reports_set_and_delete
    wait_for_returns_matching_value
    watch_starts_after_past_revision
}

async fn set_value_is_read(bench: Bench) {
    let entry = bench.entry();
    assert_eq!(entry.get().await.unwrap(), None);
    assert!(!entry.exists().await.unwrap());
    let first = entry.set(&1).await.unwrap();
    let second = entry.set(&2).await.unwrap();
    assert!(second > first);
    let read = entry.get().await.unwrap().unwrap();
    assert_eq!((*read, read.modified()), (2, second));
    assert!(read.revision() >= second);
    assert!(entry.exists().await.unwrap());

    let json = bench.client.entry::<Json<Vec<u8>>>("/json").unwrap();
    json.set(&Json(vec![1, 2])).await.unwrap();
    let text = bench.client.entry::<String>("/json").unwrap();
    assert_eq!(text.get().await.unwrap().as_deref().map(String::as_str), Some("[1,2]"));
}

async fn second_create_reports_existing_value(bench: Bench) {
    let entry = bench.entry();
    let created = entry.create(&1).await.unwrap();
    let read = entry.get().await.unwrap().unwrap();
    assert_eq!((read.created(), read.modified()), (created, created));
    let error = entry.create(&2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(error.key(), Some(entry.key()));
    assert_eq!(error.current::<u32>().map(|now| **now), Some(1));
    assert!(!error.may_have_applied());
}

async fn replace_needs_existing_key(bench: Bench) {
    let entry = bench.entry();
    let error = entry.replace(&1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!entry.exists().await.unwrap());
    let created = entry.set(&1).await.unwrap();
    let replaced = entry.replace(&2).await.unwrap();
    let read = entry.get().await.unwrap().unwrap();
    assert_eq!((*read, read.created(), read.modified()), (2, created, replaced));
}

async fn swap_returns_previous_value(bench: Bench) {
    let entry = bench.entry();
    assert_eq!(entry.swap(&1).await.unwrap(), None);
    let previous = entry.swap(&2).await.unwrap().unwrap();
    assert_eq!(*previous, 1);
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&2));
}

async fn compare_and_swap_checks_expected_value(bench: Bench) {
    let entry = bench.entry();
    let nothing = entry.get().await.unwrap();
    entry.compare_and_swap(&nothing, &1).await.unwrap();
    let one = entry.get().await.unwrap();
    let revision = entry.compare_and_swap(&one, &2).await.unwrap();
    for (expected, what) in [
        (Expect::from(&one), "as it was read"),
        (Expect::Absent, "absent"),
        (Expect::value(&1), "by value"),
        (Expect::revision(one.as_ref().unwrap().modified()), "by revision"),
    ] {
        let error = entry.compare_and_swap(expected, &9).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{what}");
        assert_eq!(error.current::<u32>().map(|now| (**now, now.modified())), Some((2, revision)), "{what}");
    }
    entry.compare_and_swap(Expect::revision(revision), &3).await.unwrap();
    entry.compare_and_swap(Expect::value(&3), &4).await.unwrap();
    entry.compare_and_swap(Expect::Present, &5).await.unwrap();
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&5));
    entry.delete().await.unwrap();
    let error = entry.compare_and_swap(Expect::Present, &6).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.current::<u32>().is_none());
}

async fn compare_and_delete_checks_expected_value(bench: Bench) {
    let entry = bench.entry();
    entry.set(&1).await.unwrap();
    let seen = entry.get().await.unwrap();
    entry.set(&2).await.unwrap();
    for expected in [Expect::from(&seen), Expect::value(&1), Expect::Absent] {
        let error = entry.compare_and_delete(expected).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.current::<u32>().map(|now| **now), Some(2));
    }
    assert_eq!(entry.compare_and_delete(Expect::value(&2)).await.unwrap().as_deref(), Some(&2));
    assert!(!entry.exists().await.unwrap());
    let again = entry.set(&3).await.unwrap();
    assert_eq!(entry.compare_and_delete(Expect::revision(again)).await.unwrap().as_deref(), Some(&3));
}

async fn delete_returns_previous_value(bench: Bench) {
    let entry = bench.entry();
    assert_eq!(entry.delete().await.unwrap(), None);
    entry.set(&1).await.unwrap();
    assert_eq!(entry.delete().await.unwrap().as_deref(), Some(&1));
    assert_eq!(entry.delete().await.unwrap(), None);
}

async fn concurrent_modifies_lose_nothing(bench: Bench) {
    let entry = bench.entry();
    assert_eq!(entry.modify(|n| n).await.unwrap(), None);
    for expected in 1..=3 {
        let now = entry.modify(|n| Some(n.unwrap_or(0) + 1)).await.unwrap().unwrap();
        assert_eq!(*now, expected);
        assert_eq!(entry.get().await.unwrap().unwrap().modified(), now.modified());
    }
    // Each of eight concurrent tasks increments the value that it replaces.
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let entry = entry.clone();
            tokio::spawn(async move { entry.modify(|n| Some(n.unwrap_or(0) + 1)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&11));
    assert_eq!(entry.modify(|_| None).await.unwrap(), None);
    assert!(!entry.exists().await.unwrap());
}

async fn expired_entry_is_deleted(bench: Bench) {
    let entry = bench.entry();
    let mut changes = entry.watch().await.unwrap();
    entry.set(&1).ttl(Duration::from_secs(2)).await.unwrap();
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&1));
    assert!(changes.next().await.unwrap().unwrap().is_created());
    let gone = changes.next().await.unwrap().unwrap();
    assert!(gone.is_deleted());
    assert_eq!(gone.old, Some(1));
    assert_eq!(entry.get().await.unwrap(), None);
    // A write without a time to live removes the time to live of the key.
    entry.set(&2).ttl(Duration::from_secs(2)).await.unwrap();
    entry.set(&3).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&3));
}

async fn ended_lease_deletes_entry(bench: Bench) {
    let entry = bench.entry();
    let lease = bench.client.lease(Duration::from_secs(3)).await.unwrap();
    entry.set(&1).lease(&lease).await.unwrap();
    // Waits longer than the time to live. The client keeps the lease alive.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&1));
    lease.revoke().await.unwrap();
    assert_eq!(entry.get().await.unwrap(), None);

    // Dropping the guard also ends the lease. A write with a lease that does not exist fails.
    let lease = bench.client.lease(Duration::from_secs(3)).await.unwrap();
    let id = lease.id();
    entry.set(&2).lease(&lease).await.unwrap();
    drop(lease);
    entry.wait_for(|value| value.is_none()).await.unwrap();
    let error = entry.set(&3).lease(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
}

async fn watch_reports_set_and_delete(bench: Bench) {
    let entry = bench.entry();
    entry.set(&1).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    assert_eq!(changes.current().unwrap().as_deref(), Some(&1));
    let set = entry.set(&2).await.unwrap();
    entry.delete().await.unwrap();
    let change = changes.next().await.unwrap().unwrap();
    let expected = Change::new(entry.key().clone(), Some(1), Some(2), set);
    assert_eq!(change, expected);
    assert!(change.is_modified());
    let change = changes.next().await.unwrap().unwrap();
    assert_eq!((change.old, change.new), (Some(2), None));
    assert_eq!(changes.current().unwrap(), None);
}

async fn wait_for_returns_matching_value(bench: Bench) {
    let entry = bench.entry();
    let waiting = {
        let entry = entry.clone();
        tokio::spawn(async move { entry.wait_for(|n| n.is_some_and(|n| *n >= 3)).await })
    };
    for n in 1..=3 {
        entry.set(&n).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap().unwrap().as_deref(), Some(&3));
    // The value is already stored.
    assert_eq!(entry.wait_for(|n| n == Some(&3)).await.unwrap().as_deref(), Some(&3));
}

async fn watch_starts_after_past_revision(bench: Bench) {
    let entry = bench.entry();
    let first = entry.set(&1).await.unwrap();
    let second = entry.set(&2).await.unwrap();
    let third = entry.set(&3).await.unwrap();
    let mut changes = entry.watch().since(first).await.unwrap();
    let revisions = [changes.next().await.unwrap().unwrap().revision, changes.next().await.unwrap().unwrap().revision];
    assert_eq!(revisions, [second, third]);
    let mut changes = entry.watch().since(first.previous()).await.unwrap();
    assert_eq!(changes.next().await.unwrap().unwrap().new, Some(1));
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/forms")]
struct Forms {
    wait: Duration,
    #[etcd(json)]
    weights: HashMap<String, f64>,
    #[etcd(alias = "old")]
    ratio: f64,
}

async fn equal_values_match_in_any_stored_form(bench: Bench) {
    let dir = FormsDir::open(&bench.client).unwrap();
    let write = async |name: &str, text: &str| {
        bench.client.entry::<String>(&format!("/forms/{name}")).unwrap().set(&text.to_owned()).await.unwrap();
    };
    let (wait, longer) = (Duration::from_secs(90), Duration::from_secs(91));
    write("wait", "90s").await;
    dir.wait.compare_and_swap(Expect::value(&wait), &longer).await.unwrap();
    assert_eq!(dir.wait.get().await.unwrap().as_deref(), Some(&longer));
    let conflict = dir.wait.compare_and_swap(Expect::value(&wait), &wait).await.unwrap_err();
    assert_eq!(conflict.current::<Duration>().map(|now| **now), Some(longer));

    write("wait", "1m 30 s\n").await;
    bench.client.transaction().expect(&dir.wait, Expect::value(&wait)).write(dir.wait.set(&longer)).await.unwrap();
    write("wait", "0h 90000ms").await;
    assert_eq!(dir.wait.compare_and_delete(Expect::value(&wait)).await.unwrap().as_deref(), Some(&wait));

    // JSON objects have no order, and a number can be written in several ways.
    let weights: HashMap<String, f64> = (0..10).map(|n| (n.to_string(), 1.5)).collect();
    let text = (0..10).rev().map(|n| format!("\"{n}\" : 15e-1")).collect::<Vec<_>>().join(", ");
    write("weights", &format!("{{ {text} }}")).await;
    dir.weights.compare_and_swap(Expect::value(&weights), &HashMap::new()).await.unwrap();
    let conflict = dir.weights.compare_and_swap(Expect::value(&weights), &weights).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);

    // Values that are read from an alias are compared in the same way.
    write("old", "0.50").await;
    dir.ratio.compare_and_swap(Expect::value(&0.5), &0.75).await.unwrap();
    assert_eq!(dir.ratio.get().await.unwrap().as_deref(), Some(&0.75));
}

async fn missing_key_reads_as_default(bench: Bench) {
    let dir = bench.app();
    let limit = &dir.rate_limit;
    assert_eq!(limit.get().await.unwrap(), None, "the key does not exist");
    let seen = limit.get_or_default().await.unwrap().unwrap();
    assert_eq!((*seen, seen.modified()), (100, Revision::ZERO));
    assert_eq!(dir.banner.get_or_default().await.unwrap(), None);
    assert_eq!(limit.modify(|n| n).await.unwrap().as_deref(), Some(&100));
    assert_eq!(limit.wait_for(|n| n == Some(&100)).await.unwrap().as_deref(), Some(&100));
    assert!(!limit.exists().await.unwrap(), "an unchanged default is not written");

    limit.compare_and_swap(&seen, &101).await.unwrap();
    let conflict = limit.compare_and_swap(&seen, &102).await.unwrap_err();
    assert_eq!(conflict.current::<u32>().map(|now| **now), Some(101));
    limit.delete().await.unwrap();
    assert_eq!(limit.modify(|n| n.map(|n| n + 1)).await.unwrap().as_deref(), Some(&101));
    assert_eq!(limit.get_or_default().await.unwrap().as_deref(), Some(&101));
    assert_eq!(limit.modify(|_| None).await.unwrap(), None);
    assert_eq!(limit.modify(|_| None).await.unwrap(), None);
}

async fn changes_report_default_of_missing_key(bench: Bench) {
    let dir = bench.filled().await;
    dir.rate_limit.set(&5).await.unwrap();
    let (mut whole, mut one) = (dir.watch().await.unwrap(), dir.rate_limit.watch().await.unwrap());
    dir.rate_limit.delete().await.unwrap();
    dir.rate_limit.set(&6).await.unwrap();
    for expected in [(Some(5), Some(100)), (Some(100), Some(6))] {
        let change = one.next().await.unwrap().unwrap();
        assert_eq!((change.old, change.new), expected);
        let update = whole.next().await.unwrap().unwrap();
        let [AppChange::RateLimit(change)] = &update.changes[..] else { panic!("{update:?}") };
        assert_eq!((change.old, change.new), expected);
    }
    dir.rate_limit.delete().await.unwrap();
    one.next().await.unwrap().unwrap();
    assert_eq!(one.current().unwrap().as_deref(), Some(&100));
}
