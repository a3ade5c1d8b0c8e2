//! How a state is saved: failed writes are repeated, links are followed, permissions are kept, and
//! unfinished files of killed processes are removed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use etcd_typed::LiveStatus;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};

use super::*;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limits {
    rate: u32,
}

impl Bench {
    async fn stored() -> Self {
        let bench = Self::new();
        bench.put(&[("rate", "1")]).await;
        bench
    }

    async fn view(&self, path: &Path) -> Live<Limits> {
        view(&self.client, path).await.unwrap()
    }

    /// Starts a view while the server is stopped, and returns the rate that it shows.
    async fn start(&self, path: &Path) -> Result<u32, Error> {
        self.store.faults().stop();
        let started = view::<Limits>(&self.client, path).await.map(|live| live.get().rate);
        self.store.faults().start();
        started
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.files.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test(start_paused = true)]
async fn failed_save_is_retried() {
    let bench = Bench::stored().await;
    let folder = bench.files.path().join("later");
    let path = folder.join("view.json");
    let live = bench.view(&path).await;
    until(|| live.status().snapshot_failure().is_some()).await;
    let since = live.status().snapshot_failure().unwrap().since;
    sleep(LONG).await;
    let status = live.status();
    let failure = status.snapshot_failure().unwrap();
    assert!(status.is_live() && matches!(status, LiveStatus::Unsaved(_)));
    assert_eq!(failure.since, since, "the failure counts from the first attempt");
    assert!(tokio::time::Instant::from_std(failure.since).elapsed() >= LONG);
    assert!(failure.error.to_string().contains("No such file"), "{failure}");
    assert!(status.to_string().starts_with("live; not kept on disk for 1"), "{status}");
    let shown = serde_json::to_value(&status).unwrap();
    assert_eq!(shown["status"], "live");
    assert!(shown["snapshot_failure"]["for_seconds"].as_f64().unwrap() >= 120.0, "{shown}");

    // The next save succeeds, although nothing changes in the store.
    fs::create_dir(&folder).unwrap();
    until(|| holds(&path, live.get().revision())).await;
    until(|| matches!(live.status(), LiveStatus::Live)).await;
    assert_eq!(serde_json::to_string(&live.status()).unwrap(), r#"{"status":"live"}"#);
}

#[tokio::test(start_paused = true)]
async fn degraded_view_reports_failed_save() {
    let bench = Bench::stored().await;
    let live = bench.view(&bench.files.path().join("none/view.json")).await;
    until(|| live.status().snapshot_failure().is_some()).await;
    bench.store.faults().stop();
    until(|| !live.status().is_live()).await;
    let status = live.status();
    assert!(status.snapshot_failure().is_some() && status.to_string().contains("not kept on disk"), "{status}");
    assert!(serde_json::to_value(&status).unwrap()["snapshot_failure"].is_object());
}

#[tokio::test(start_paused = true)]
async fn removed_or_damaged_file_is_rewritten() {
    let bench = Bench::stored().await;
    let path = bench.path();
    let live = bench.view(&path).await;
    let written = || holds(&path, live.get().revision());
    until(written).await;
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    until(written).await;
    fs::write(&path, &good[..20]).unwrap();
    until(written).await;
    // Another process with the same view may write the file at an older revision.
    let mut older = document(&path).unwrap();
    older["revision"] = Value::from(1);
    fs::write(&path, older.to_string()).unwrap();
    until(written).await;
    assert!(live.status().snapshot_failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn foreign_file_is_reported_and_kept() {
    let bench = Bench::stored().await;
    let path = bench.path();
    let live = bench.view(&path).await;
    until(|| holds(&path, live.get().revision())).await;
    let mut foreign = document(&path).unwrap();
    foreign["directory"] = Value::from("/other");
    fs::write(&path, foreign.to_string()).unwrap();
    until(|| live.status().snapshot_failure().is_some()).await;
    sleep(LONG).await;
    assert_eq!(document(&path), Some(foreign));
    assert!(live.status().to_string().contains("/other"), "{}", live.status());
    // The next state overwrites the foreign file.
    let revision = bench.client.dir::<Limits>("/app").unwrap().rate.set(&2).await.unwrap();
    until(|| holds(&path, revision)).await;
    until(|| live.status().snapshot_failure().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn unfinished_files_of_dead_processes_are_removed() {
    let bench = Bench::stored().await;
    let file = |name: &str| bench.files.path().join(name);
    let plant = || {
        for name in [".etcd-typed-aaaaaa.tmp", ".etcd-typed-bbbbbb.tmp", ".etcd-typed-other", "other.tmp"] {
            fs::write(file(name), "{").unwrap();
        }
    };
    plant();
    // A lock on the file means that a running process is writing it.
    let locked = OpenOptions::new().write(true).create(true).truncate(false).open(file(".etcd-typed-locked.tmp")).unwrap();
    flock(&locked, FlockOperation::LockExclusive).unwrap();
    symlink(file("other.tmp"), file(".etcd-typed-link.tmp")).unwrap();
    mknodat(CWD, file(".etcd-typed-fifo.tmp"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let stays = [".etcd-typed-fifo.tmp", ".etcd-typed-link.tmp", ".etcd-typed-locked.tmp", ".etcd-typed-other", "other.tmp", "view.json"];

    let live = bench.view(&bench.path()).await;
    until(|| bench.names() == stays).await;
    drop(live);
    plant();
    assert_eq!(bench.start(&bench.path()).await.unwrap(), 1);
    assert_eq!(bench.names(), stays, "the same holds if the view starts without a server");
}

const CHILD: &str = "SNAPSHOT_TEST_WRITES";

/// Saves a large state repeatedly in the process that the next test starts. Does nothing when run
/// as a test.
#[tokio::test]
async fn helper_process_that_writes_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let bench = Bench::new();
    let map = bench.client.entries::<u64, String>("/app").unwrap();
    let live = map.live().or_snapshot(path).await.unwrap();
    map.set(&(0..20_000).map(|n| (n, "x".repeat(50))).collect()).non_atomic().await.unwrap();
    loop {
        map.entry(&0).unwrap().set(&"y".to_owned()).await.unwrap();
        sleep(TICK).await;
        assert!(live.status().is_live());
    }
}

#[tokio::test(start_paused = true)]
async fn next_start_removes_files_of_killed_writers() {
    let bench = Bench::stored().await;
    let unfinished = || bench.names().into_iter().filter(|name| name.starts_with(".etcd-typed-")).count();
    for _ in 0..3 {
        // The child may be killed just after a rename, when no unfinished file exists.
        while unfinished() == 0 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "snapshot::disk::helper_process_that_writes_until_killed"])
                .env(CHILD, bench.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            while unfinished() == 0 {
                assert!(child.try_wait().unwrap().is_none(), "the child is running");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let live = bench.view(&bench.files.path().join("other.json")).await;
        until(|| unfinished() == 0).await;
        drop(live);
    }
}

#[tokio::test(start_paused = true)]
async fn views_of_one_process_save_side_by_side() {
    let bench = Bench::stored().await;
    let paths: Vec<_> = (0..8).map(|n| bench.files.path().join(format!("{n}.json"))).collect();
    for round in 2..12 {
        let mut views = Vec::new();
        for path in &paths {
            views.push(bench.view(path).await);
        }
        let revision = bench.client.dir::<Limits>("/app").unwrap().rate.set(&round).await.unwrap();
        until(|| paths.iter().all(|path| holds(path, revision))).await;
        assert!(views.iter().all(|live| live.status().snapshot_failure().is_none()));
    }
    assert_eq!(bench.names().len(), paths.len());
}

#[tokio::test(start_paused = true)]
async fn symbolic_links_are_followed() {
    let bench = Bench::stored().await;
    let file = |name: &str| bench.files.path().join(name);
    fs::create_dir(file("data")).unwrap();
    // One chain of links leads to an existing file, and one to a file that does not exist yet.
    for (target, exists) in [("there.json", true), ("not-yet.json", false)] {
        let (first, second, target) = (file(&format!("1-{target}")), file(&format!("2-{target}")), file("data").join(target));
        if exists {
            fs::write(&target, "").unwrap();
        }
        symlink(&second, &first).unwrap();
        symlink(Path::new("data").join(target.file_name().unwrap()), &second).unwrap();
        let live = bench.view(&first).await;
        until(|| holds(&target, live.get().revision())).await;
        drop(live);
        assert!([&first, &second].iter().all(|link| fs::symlink_metadata(link).unwrap().is_symlink()));
        assert_eq!(bench.start(&first).await.unwrap(), 1);
    }
    assert_eq!(fs::read_dir(file("data")).unwrap().count(), 2);

    symlink(file("loop-b"), file("loop-a")).unwrap();
    symlink(file("loop-a"), file("loop-b")).unwrap();
    let live = bench.view(&file("loop-a")).await;
    until(|| live.status().snapshot_failure().is_some()).await;
    assert!(live.status().to_string().contains("symbolic links"), "{}", live.status());
    assert!(fs::symlink_metadata(file("loop-a")).unwrap().is_symlink());
    // Removing one link ends the loop.
    fs::remove_file(file("loop-b")).unwrap();
    until(|| holds(&file("loop-b"), live.get().revision())).await;
}

#[tokio::test(start_paused = true)]
async fn existing_file_keeps_its_permissions() {
    let bench = Bench::stored().await;
    let path = bench.path();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(&path).unwrap();
    let live = bench.view(&path).await;
    until(|| holds(&path, live.get().revision())).await;
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_ne!(after.ino(), before.ino(), "the file was replaced by a rename");
}

#[tokio::test(start_paused = true)]
async fn path_to_special_file_or_directory_is_refused() {
    let bench = Bench::stored().await;
    let (fifo, folder, link) = (bench.path(), bench.files.path().to_owned(), bench.files.path().join("link"));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    symlink(&fifo, &link).unwrap();
    for (path, what) in [(&fifo, "FIFO"), (&link, "FIFO"), (&folder, "a directory"), (&PathBuf::from("/dev/null"), "device")] {
        let error = view::<Limits>(&bench.client, path).await.map(drop).unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(what), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        let error = bench.start(path).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains(what), "{error}");
    }
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    assert_eq!(bench.names(), ["link", "view.json"]);
}

/// A file that can be written but not replaced. The file is bind-mounted or, if the test does not
/// run as root, in a read-only directory.
struct Fixed {
    path: PathBuf,
    is_mounted: bool,
}

impl Fixed {
    fn new(bench: &Bench) -> Self {
        let folder = bench.files.path().join("fixed");
        let path = folder.join("view.json");
        fs::create_dir(&folder).unwrap();
        File::create(&path).unwrap();
        // The owner of a new file shows whether the test runs as root.
        let is_root = fs::metadata(&path).unwrap().uid() == 0;
        if is_root {
            let source = bench.files.path().join("source.json");
            File::create(&source).unwrap();
            let status = Command::new("mount").arg("--bind").args([&source, &path]).status().unwrap();
            assert!(status.success(), "root can mount");
        } else {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
        }
        Self { path, is_mounted: is_root }
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg(&self.path).status();
        } else if let Some(folder) = self.path.parent() {
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn torn_overwrite_is_refused_at_start() {
    let bench = Bench::stored().await;
    let fixed = Fixed::new(&bench);
    let path = &fixed.path;
    let node = fs::metadata(path).unwrap().ino();
    let live = bench.view(path).await;
    until(|| holds(path, live.get().revision())).await;
    let first = fs::read(path).unwrap();
    let revision = bench.client.dir::<Limits>("/app").unwrap().rate.set(&234).await.unwrap();
    until(|| holds(path, revision)).await;
    until(|| live.status().snapshot_failure().is_none()).await;
    let second = fs::read(path).unwrap();
    assert_eq!(fs::metadata(path).unwrap().ino(), node, "the file was not replaced");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    drop(live);
    assert_eq!(bench.start(path).await.unwrap(), 234);

    // The new content is cut off at every length, and followed by nothing or by the rest of the
    // former content.
    for length in 0..second.len() - 1 {
        for rest in [&[][..], first.get(length..).unwrap_or_default()] {
            let torn = [&second[..length], rest].concat();
            if torn == first || torn == second {
                continue;
            }
            fs::write(path, &torn).unwrap();
            let error = bench.start(path).await.unwrap_err();
            assert!(error.to_string().contains("damaged"), "{error}: {}", String::from_utf8_lossy(&torn));
        }
    }
    // A live view repairs the file.
    let live = bench.view(path).await;
    until(|| holds(path, live.get().revision())).await;
}
