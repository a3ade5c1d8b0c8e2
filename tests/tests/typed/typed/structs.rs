//! The methods of structs.

use super::*;

etcd_typed_tests::on_every_store! { "typed":
    delete_tells_missing_from_unreadable_struct
    set_struct_is_read
    set_of_struct_is_atomic_or_refused
    second_create_of_struct_fails
    compare_and_swap_of_struct_detects_changes
    compare_and_delete_of_struct_detects_changes
    update_writes_what_closure_changed
    update_of_one_field_needs_no_transaction
    delete_of_struct_keeps_unknown_keys
    watch_of_struct_reports_each_revision
    wait_for_returns_matching_struct
}

async fn set_struct_is_read(bench: Bench) {
    let dir = bench.app();
    assert!(!dir.exists().await.unwrap());
    let error = dir.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // All fields with neither a default nor an `Option` are listed at once.
    let missing: Vec<_> = error.problems().iter().map(|problem| dir.key().below(problem.key.as_str().as_bytes()).unwrap()).collect();
    assert_eq!(missing, ["timeout", "level", "features", "database/host", "database/pool"]);

    let dir = bench.filled().await;
    assert!(dir.exists().await.unwrap());
    let read = dir.get().await.unwrap();
    assert_eq!(*read, app());
    assert!(read.modified() <= read.revision() && read.created() <= read.modified());
    assert_eq!(dir.rate_limit.get().await.unwrap().as_deref(), Some(&250));
    assert_eq!(dir.database.pool.get().await.unwrap().as_deref(), Some(&8));

    // A set deletes the keys of the schema that the new value does not have, and keeps unknown
    // keys. A field whose key is missing is read as its default.
    let foreign = bench.client.entry::<String>("/prod/app/foreign").unwrap();
    foreign.set(&"stays".to_owned()).await.unwrap();
    let less = App { banner: None, regions: BTreeMap::new(), quotas: BTreeMap::from([("acme".to_owned(), 1)]), ..app() };
    dir.set(&less).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), less);
    assert!(foreign.exists().await.unwrap());
    dir.rate_limit.delete().await.unwrap();
    assert_eq!(dir.get().await.unwrap().rate_limit, 100);
}

async fn set_of_struct_is_atomic_or_refused(bench: Bench) {
    let dir = bench.app();
    let written = dir.set(&app()).await;
    if bench.transactions() {
        let revision = written.unwrap();
        let read = dir.get().await.unwrap();
        assert_eq!((read.created(), read.modified()), (revision, revision));
    } else {
        let error = written.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("non_atomic"), "{error}");
        assert!(!dir.exists().await.unwrap());
    }
}

async fn second_create_of_struct_fails(bench: Bench) {
    let dir = bench.app();
    if bench.transactions() {
        dir.create(&app()).await.unwrap();
        assert_eq!(dir.create(&app()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    } else {
        assert_eq!(dir.create(&app()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    dir.delete().non_atomic().await.unwrap();
    dir.create(&app()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), app());
    let error = dir.create(&App { rate_limit: 1, ..app() }).non_atomic().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(*dir.get().await.unwrap(), app());
}

async fn compare_and_swap_of_struct_detects_changes(bench: Bench) {
    let dir = bench.filled().await;
    let seen = dir.get().await.unwrap();
    let wanted = App { rate_limit: 1, banner: None, quotas: BTreeMap::new(), ..app() };
    if !bench.transactions() {
        assert_eq!(dir.compare_and_swap(&seen, &wanted).await.unwrap_err().kind(), ErrorKind::Unsupported);
        dir.compare_and_swap(&seen, &wanted).non_atomic().await.unwrap();
        assert_eq!(*dir.get().await.unwrap(), wanted);
        let error = dir.compare_and_swap(&seen, &app()).non_atomic().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.current::<App>().map(|now| &**now), Some(&wanted));
        return;
    }
    let revision = dir.compare_and_swap(&seen, &wanted).await.unwrap();
    let now = dir.get().await.unwrap();
    assert_eq!((&*now, now.modified()), (&wanted, revision));
    let error = dir.compare_and_swap(&seen, &app()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.current::<App>().map(|now| &**now), Some(&wanted));
}

async fn compare_and_delete_of_struct_detects_changes(bench: Bench) {
    let dir = bench.filled().await;
    let seen = dir.get().await.unwrap();
    dir.database.pool.set(&9).await.unwrap();
    if bench.transactions() {
        assert_eq!(dir.compare_and_delete(&seen).await.unwrap_err().kind(), ErrorKind::Conflict);
        let seen = dir.get().await.unwrap();
        assert_eq!(dir.compare_and_delete(&seen).await.unwrap().as_deref(), Some(&*seen));
    } else {
        assert_eq!(dir.compare_and_delete(&seen).await.unwrap_err().kind(), ErrorKind::Unsupported);
        let error = dir.compare_and_delete(&seen).non_atomic().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let seen = dir.get().await.unwrap();
        assert_eq!(dir.compare_and_delete(&seen).non_atomic().await.unwrap().as_deref(), Some(&*seen));
    }
    assert!(!dir.exists().await.unwrap());
}

async fn update_writes_what_closure_changed(bench: Bench) {
    let dir = bench.filled().await;
    let change = |app: &mut App| {
        app.rate_limit += 1;
        app.banner = None;
        app.quotas.insert("new".to_owned(), 7);
        app.regions.remove("eu");
    };
    let mut expected = app();
    change(&mut expected);
    if !bench.transactions() {
        let error = dir.update(change).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(*dir.get().await.unwrap(), app());
    }
    let updated = if bench.transactions() { dir.update(change).await } else { dir.update(change).non_atomic().await };
    let updated = updated.unwrap();
    assert_eq!(*updated, expected);
    let read = dir.get().await.unwrap();
    assert_eq!((&*read, read.modified()), (&expected, updated.modified()));

    // An update that changes nothing writes nothing.
    let same = dir.update(|_| ()).await.unwrap();
    assert_eq!(same.modified(), read.modified());

    // If the closure returns an error, nothing is written.
    let refused = dir.try_update(|app| if app.rate_limit > 5 { Err("too many") } else { Ok(()) }).await;
    assert!(matches!(refused, Err(etcd_typed::UpdateError::Refused("too many"))));
}

async fn update_of_one_field_needs_no_transaction(bench: Bench) {
    let dir = bench.filled().await;
    let updated = dir.update(|app| app.rate_limit = 7).changed_fields_only().await.unwrap();
    assert_eq!(updated.rate_limit, 7);
    assert_eq!(dir.rate_limit.get().await.unwrap().as_deref(), Some(&7));
}

async fn delete_of_struct_keeps_unknown_keys(bench: Bench) {
    let dir = bench.filled().await;
    let foreign = bench.client.entry::<String>("/prod/app/foreign").unwrap();
    foreign.set(&"stays".to_owned()).await.unwrap();
    if bench.transactions() {
        assert_eq!(dir.delete().await.unwrap().as_deref(), Some(&app()));
    } else {
        assert_eq!(dir.delete().await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(dir.delete().non_atomic().await.unwrap().as_deref(), Some(&app()));
    }
    assert!(!dir.exists().await.unwrap());
    assert!(foreign.exists().await.unwrap());
    assert_eq!(dir.delete().await.unwrap(), None);
}

async fn watch_of_struct_reports_each_revision(bench: Bench) {
    let dir = bench.filled().await;
    let mut changes = dir.watch().await.unwrap();
    assert_eq!(*changes.current().unwrap(), app());

    let revision = dir.database.pool.set(&16).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    let pool = Change::new(dir.database.pool.key().clone(), Some(8), Some(16), revision);
    assert_eq!(update, Update::new(revision, vec![AppChange::Database(DatabaseChange::Pool(pool))]));

    dir.regions.dir("eu").unwrap().replicas.set(&5).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    let [AppChange::Regions(Keyed { key, change: RegionChange::Replicas(change) })] = &update.changes[..] else { panic!("{update:?}") };
    assert_eq!((key.as_str(), change.old, change.new), ("eu", Some(3), Some(5)));

    // A change of an unknown key yields no item. All changes of one revision are one item.
    bench.client.entry::<String>("/prod/app/foreign").unwrap().set(&"x".to_owned()).await.unwrap();
    if bench.transactions() {
        let updated = dir.update(|app| (app.rate_limit, app.banner, app.level) = (1, None, Level::Debug)).await.unwrap();
        let update = changes.next().await.unwrap().unwrap();
        assert_eq!(update.revision, updated.modified());
        assert!(matches!(&update.changes[..], [AppChange::RateLimit(_), AppChange::Banner(_), AppChange::Level(_)]), "{update:?}");
        assert_eq!(&*changes.current().unwrap(), &*updated);
    } else {
        dir.banner.delete().await.unwrap();
        let update = changes.next().await.unwrap().unwrap();
        assert!(matches!(&update.changes[..], [AppChange::Banner(change)] if change.is_deleted()), "{update:?}");
    }
}

async fn wait_for_returns_matching_struct(bench: Bench) {
    let dir = bench.app();
    let waiting = {
        let dir = dir.clone();
        tokio::spawn(async move { dir.wait_for(|app| app.rate_limit == 7).await })
    };
    dir.set(&app()).non_atomic().await.unwrap();
    dir.rate_limit.set(&7).await.unwrap();
    assert_eq!(*waiting.await.unwrap().unwrap(), App { rate_limit: 7, ..app() });
}

async fn delete_tells_missing_from_unreadable_struct(bench: Bench) {
    let dir = bench.app();
    assert!(matches!(dir.delete().non_atomic().await.unwrap(), Previous::Nothing));
    dir.set(&app()).non_atomic().await.unwrap();
    assert!(matches!(dir.delete().non_atomic().await.unwrap(), Previous::Value(was) if *was == app()));
    dir.set(&app()).non_atomic().await.unwrap();
    bench.client.entry::<String>("/prod/app/rate-limit").unwrap().set(&"many".to_owned()).await.unwrap();
    let deleted = dir.delete().non_atomic().await.unwrap();
    assert!(deleted.existed() && deleted.is_none());
    let Previous::Unreadable(error) = deleted else { panic!("{deleted:?}") };
    assert_eq!(error.problems()[0].key, *dir.rate_limit.key());
    assert!(!dir.exists().await.unwrap(), "an unreadable struct is deleted all the same");
}
