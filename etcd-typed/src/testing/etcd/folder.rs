//! A server's folder in the temporary directory. Also removes the folders of test processes that
//! have ended.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const PREFIX: &str = "etcd-typed-";
/// The lock file in each folder. The process that owns the folder holds a lock on it, which the
/// system releases however the process ends.
const LOCK: &str = "lock";

/// The folder of one server, with `data/`, `log` and `lock`. Dropping the value removes the folder.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Creates a new folder, and removes the folders of ended processes.
    pub(super) fn new() -> Self {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent);
        loop {
            let path = parent.join(format!("{PREFIX}{}-{:x}", std::process::id(), fastrand::u64(..)));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
            // Another process may remove the folder before it is locked, as if its owner had ended.
            // If so, create another folder.
            match File::create(path.join(LOCK)) {
                Ok(lock) if take(&lock) && path.join(LOCK).exists() => return Self { path, _lock: lock },
                Err(error) if error.kind() != ErrorKind::NotFound => panic!("cannot write into {}: {error}", path.display()),
                Ok(_) | Err(_) => {}
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn read_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    /// Returns the first and the last lines of the log. A server that does not know a flag says so
    /// in the first line, before its usage text. A server that fails later gives the reason in its
    /// last lines.
    pub(super) fn log_excerpt(&self) -> String {
        excerpt(&self.read_log())
    }

    pub(super) fn clear_data(&self) {
        if let Err(error) = fs::remove_dir_all(self.data()) {
            panic!("cannot remove {}: {error}", self.data().display());
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Leftovers in the temporary directory must not fail a test.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the servers' folders in this directory whose lock is free. A folder without a lock file
/// is not a server's folder. Errors are ignored: another process may remove the same folder, and
/// other users' folders cannot be removed.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            let path = entry.path();
            if let Ok(lock) = File::open(path.join(LOCK))
                && take(&lock)
            {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

/// Takes the lock on a file until the file is closed. Returns false if another process holds it.
#[cfg(unix)]
fn take(lock: &File) -> bool {
    use rustix::fs::{FlockOperation, flock};
    flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Only makes the code compile: the test servers need a Unix system.
#[cfg(not(unix))]
fn take(_lock: &File) -> bool {
    true
}

/// Returns the first ten and the last twenty lines of a text.
fn excerpt(log: &str) -> String {
    const HEAD: usize = 10;
    const TAIL: usize = 20;
    let lines: Vec<&str> = log.lines().collect();
    let left_out = lines.len().saturating_sub(HEAD + TAIL);
    if left_out == 0 {
        return lines.join("\n");
    }
    let (head, rest) = lines.split_at(HEAD);
    let tail = rest.get(left_out..).unwrap_or_default();
    format!("{}\n... {left_out} lines left out ...\n{}", head.join("\n"), tail.join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn only_unlocked_folders_are_removed() {
        let parent = Folder::new();
        let folder = |name: &str, locked: bool| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("log"), "kept").unwrap();
            let lock = locked.then(|| File::create(path.join(LOCK)).unwrap());
            (path, lock)
        };
        let (dead, _) = folder("etcd-typed-1-a", true);
        let (live, lock) = folder("etcd-typed-1-b", true);
        assert!(take(lock.as_ref().unwrap()));
        let (strange, _) = folder("etcd-typed-certificates-1-c", false);
        let (other, _) = folder("other-1-d", true);
        remove_abandoned(parent.path());
        assert_eq!([dead, live, strange, other].map(|path| path.exists()), [false, true, true, true]);
    }

    #[test]
    fn excerpt_shows_first_and_last_lines() {
        assert_eq!(excerpt("a\nb\n"), "a\nb");
        let log: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        let excerpt = excerpt(&log.join("\n"));
        for line in ["line 0\n", "line 9\n... 70 lines left out ...\nline 80\n", "line 99"] {
            assert!(excerpt.contains(line), "{excerpt}");
        }
    }
}
