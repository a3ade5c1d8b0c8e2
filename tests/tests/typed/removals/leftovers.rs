//! Keys that older programs left below an entry of a map.

use super::*;

etcd_typed_tests::on_every_store! { "removals":
    leftover_keys_make_no_entry
    leftover_keys_make_no_nested_entry
    partly_written_entry_is_reported
    new_entry_replaces_leftover_keys
}

/// Writes what an older version of this library left behind: keys with defaults, optional keys and
/// a map.
pub(super) async fn write_leftovers(bench: &Bench, directory: &str) {
    for (name, value) in [("tls", "not even a bool"), ("note", "n"), ("tags/t", "300"), ("_etcd-typed/x", "x")] {
        bench.put(&format!("{directory}/{name}"), value).await;
    }
}

async fn leftover_keys_make_no_entry(bench: Bench) {
    let dir = bench.app();
    let wanted = App { backup: None, regions: BTreeMap::from([("eu".to_owned(), db("e"))]), ..app() };
    dir.set(&wanted).non_atomic().await.unwrap();
    let (early, early_map) = (dir.live().await.unwrap(), dir.regions.live().await.unwrap());
    let mut changes = dir.watch().await.unwrap();
    write_leftovers(&bench, "/app/regions/us").await;
    write_leftovers(&bench, "/app/backup").await;

    assert_eq!(*dir.get().await.unwrap(), wanted);
    assert_eq!(dir.regions.keys().await.unwrap(), ["eu"]);
    assert_eq!(*dir.regions.get().await.unwrap(), wanted.regions);
    assert_eq!(*dir.wait_for(|app| app.backup.is_none()).await.unwrap(), wanted);
    assert!(!dir.backup.exists().await.unwrap() && !dir.regions.dir("us").unwrap().exists().await.unwrap());
    assert!(dir.regions.dir("eu").unwrap().exists().await.unwrap());
    assert!(dir.diff(&wanted).await.unwrap().differences.iter().all(etcd_typed::Difference::is_deleted));
    assert_eq!(**dir.live().await.unwrap().get(), wanted);
    assert_eq!(dir.regions.live().await.unwrap().get().len(), 1);

    // A write of another field leaves these keys, since another client may be about to write the
    // rest.
    let update = dir.update(|app| app.name = "new".to_owned());
    let updated = if bench.transactions() { update.await } else { update.non_atomic().await }.unwrap();
    let swapped = App { name: "newer".to_owned(), ..(*updated).clone() };
    let swap = dir.compare_and_swap(&updated, &swapped);
    let written = if bench.transactions() { swap.await } else { swap.non_atomic().await }.unwrap();
    assert_eq!(early.wait_for_revision(written).await.unwrap().name, "newer");
    assert_eq!(early_map.wait_for_revision(written).await.unwrap().len(), 1);
    assert!(early.status().is_live() && early_map.status().is_live(), "{:?}", early.status());
    assert!(bench.exists("/app/regions/us/tls").await && bench.exists("/app/backup/tags/t").await);
    loop {
        let update = changes.next().await.unwrap().unwrap();
        if update.revision == written {
            break;
        }
        assert!(update.changes.iter().all(|change| matches!(change, AppChange::Name(_))), "{update:?}");
    }

    // A check names each leftover key and the key that is missing.
    let check = dir.check().await.unwrap();
    let relative = |problem: &etcd_typed::Problem| dir.key().below(problem.key.as_bytes()).unwrap().to_owned();
    let listed: Vec<_> = check.problems.iter().map(relative).collect();
    assert_eq!(listed, ["backup/note", "backup/tags/t", "backup/tls", "regions/us/note", "regions/us/tags/t", "regions/us/tls"]);
    for problem in &check.problems {
        assert_eq!(problem.kind, ProblemKind::Unknown);
        assert!(problem.reason.contains("left over") && problem.reason.contains("`host`"), "{problem}");
        let entry = bench.client.entry::<Bytes>(&format!("/app/{}", relative(problem))).unwrap();
        assert_eq!(problem.revision, Some(entry.get().await.unwrap().unwrap().modified()));
    }
    assert_eq!(dir.regions.check().await.unwrap().problems.len(), 3);

    // A read of this entry alone reports the missing key.
    assert_eq!(dir.regions.dir("us").unwrap().get().await.unwrap_err().problems()[0].kind, ProblemKind::Missing);
    // A `delete` of the incomplete entry removes its keys, and so does a `set` of the whole struct.
    let was = dir.regions.dir("us").unwrap().delete().non_atomic().await.unwrap();
    assert!(matches!(was, Previous::Unreadable(_)), "{was:?}");
    assert!(!bench.exists("/app/regions/us/_etcd-typed/x").await);
    dir.set(&wanted).non_atomic().await.unwrap();
    assert!(dir.check().await.unwrap().is_empty() && bench.below("/app/backup").await.is_empty());
}

async fn leftover_keys_make_no_nested_entry(bench: Bench) {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Outer {
        /// The struct has no required field, so it exists if its map has an entry.
        #[etcd(dir)]
        group: Option<Group>,
        #[etcd(dir)]
        groups: BTreeMap<String, Group>,
    }
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Group {
        #[etcd(dir)]
        members: BTreeMap<String, Member>,
        #[etcd(dir)]
        head: Option<Member>,
    }
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Member {
        #[etcd(flatten)]
        db: old::Db,
        #[etcd(default = 1)]
        weight: u8,
    }
    let dir = bench.client.dir::<Outer>("/outer").unwrap();
    let nothing = Outer { group: None, groups: BTreeMap::new() };
    for path in ["group/members/a/weight", "group/head/weight", "groups/x/members/a/weight", "groups/x/head/weight"] {
        bench.put(&format!("/outer/{path}"), "2").await;
    }
    assert_eq!(*dir.get().await.unwrap(), nothing);
    assert_eq!(**dir.live().await.unwrap().get(), nothing);
    assert!(dir.groups.live().await.unwrap().get().is_empty() && dir.groups.keys().await.unwrap().is_empty());
    assert_eq!(dir.check().await.unwrap().problems.len(), 4);
    // A complete member makes its group exist. Leftover keys do not make another member exist.
    bench.put("/outer/groups/x/members/b/host", "h").await;
    let member = Member { db: old_db("h"), weight: 1 };
    let groups = BTreeMap::from([("x".to_owned(), Group { members: BTreeMap::from([("b".to_owned(), member)]), head: None })]);
    let one = Outer { group: None, groups };
    assert_eq!(*dir.get().await.unwrap(), one);
    dir.set(&one).non_atomic().await.unwrap();
    assert_eq!(bench.below("/outer").await, ["groups/x/members/b/host", "groups/x/members/b/weight"]);
}

async fn partly_written_entry_is_reported(bench: Bench) {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Pair {
        host: String,
        port: u16,
        #[etcd(default = true)]
        tls: bool,
    }
    let map = bench.client.dirs::<String, Pair>("/pairs").unwrap();
    bench.put("/pairs/a/tls", "false").await;
    assert_eq!(*map.get().await.unwrap(), BTreeMap::new());
    assert!(map.check().await.unwrap().problems[0].reason.contains("`host`, `port`"));
    bench.put("/pairs/a/port", "1").await;
    let error = map.get().await.unwrap_err();
    assert_eq!(error.problems().iter().map(|problem| problem.kind).collect::<Vec<_>>(), [ProblemKind::Missing]);
    assert!(error.problems()[0].key.as_str().ends_with("/pairs/a/host"));
    bench.delete("/pairs/a/port").await;
    assert_eq!(*map.get().await.unwrap(), BTreeMap::new());
}

async fn new_entry_replaces_leftover_keys(bench: Bench) {
    let (dir, atomic) = (bench.app(), bench.transactions());
    let fresh = Db { host: "f".to_owned(), tls: true, note: None, tags: BTreeMap::from([("new".to_owned(), 2)]) };
    for (way, in_steps) in ["create", "update", "swap", "set"].into_iter().flat_map(|way| [(way, false), (way, true)]) {
        if !in_steps && !atomic {
            continue;
        }
        let before = App { backup: None, regions: BTreeMap::new(), ..app() };
        dir.set(&before).non_atomic().await.unwrap();
        write_leftovers(&bench, "/app/regions/us").await;
        write_leftovers(&bench, "/app/backup").await;
        let seen = dir.get().await.unwrap();
        let wanted = App { backup: Some(fresh.clone()), regions: BTreeMap::from([("us".to_owned(), fresh.clone())]), ..before };
        match way {
            "create" => {
                let (us, backup) = (dir.regions.dir("us").unwrap(), &dir.backup);
                for create in [us.create(&fresh), backup.create(&fresh)] {
                    if in_steps { create.non_atomic().await } else { create.await }.unwrap();
                }
                assert_eq!(us.create(&fresh).non_atomic().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
            }
            "update" => {
                let update = dir.update(|app| *app = wanted.clone());
                let updated = if in_steps { update.non_atomic().await } else { update.await }.unwrap();
                assert_eq!(*updated, wanted);
            }
            "swap" if in_steps => drop(dir.compare_and_swap(&seen, &wanted).non_atomic().await.unwrap()),
            "swap" => drop(dir.compare_and_swap(&seen, &wanted).await.unwrap()),
            _ if in_steps => drop(dir.set(&wanted).non_atomic().await.unwrap()),
            _ => drop(dir.set(&wanted).await.unwrap()),
        }
        assert_eq!(*dir.get().await.unwrap(), wanted, "{way}");
        assert!(dir.check().await.unwrap().is_empty(), "{way}");
    }
}
