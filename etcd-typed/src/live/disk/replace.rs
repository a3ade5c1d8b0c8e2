//! How the content of a file is replaced.
//!
//! A new file is written beside the target and renamed, so that a reader or a crash finds the former content or the new one, whole. Links are followed to
//! the file that they name. Where no file can be put in the place of the target (a bind mount, a directory that may not be written), the target is
//! overwritten; the writer then adds what lets a reader find out that it was not written to its end.
//!
//! A process that is killed leaves its unfinished file. A writer holds a lock on it, which ends with the process, so [`tidy`] can tell unfinished files of dead processes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

const PREFIX: &str = ".etcd-typed-";
const SUFFIX: &str = ".tmp";

/// As many as Linux follows.
const LINKS: usize = 40;

/// How often another name is tried for an unfinished file that [`tidy`] is about to remove.
const ATTEMPTS: usize = 8;

/// How the content comes into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// All of it by a rename.
    AtOnce,
    /// Byte by byte; a crash leaves a part of it.
    InPlace,
}

/// Which file it is and when it was written: whether somebody else has replaced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    node: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let node = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let node = 0;
        Self { length: metadata.len(), modified: metadata.modified().ok(), node }
    }
}

/// Replaces the content of the file at this path by what `write` writes.
pub(super) fn replace(path: &Path, mut write: impl FnMut(Manner, &mut dyn Write) -> io::Result<()>) -> io::Result<Stamp> {
    let target = follow(path)?;
    let former = existing(&target)?;
    match put(&target, former.as_ref(), &mut write) {
        Err(error) if former.is_some() && is_about_the_place(&error) => {
            overwrite(&target, &mut write).map_err(|second| match second.kind() {
                // Nothing may be written there at all: the first error says more.
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => error,
                _ => second,
            })
        }
        done => done,
    }
}

/// What is at this path, links followed; none if nothing is.
///
/// # Errors
///
/// `InvalidInput` for what is no file: to read a FIFO would wait for ever.
pub(super) fn existing(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(metadata) => {
            let is = if metadata.is_dir() { "a directory" } else { "a FIFO, a socket or a device" };
            Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {is} and not a file")))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path that a link leads to, even if it does not exist. A rename to the link itself would replace the link.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_symlink() => {
                let named = fs::read_link(&at)?;
                at = directory_of(&at).join(named);
            }
            Ok(_) => return Ok(at),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(at),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a rename to this path is impossible, although the existing file may still be written.
fn is_about_the_place(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ResourceBusy | ErrorKind::CrossesDevices
    )
}

fn put(target: &Path, former: Option<&Metadata>, write: &mut impl FnMut(Manner, &mut dyn Write) -> io::Result<()>) -> io::Result<Stamp> {
    let mut file = unfinished(directory_of(target))?;
    if let Some(former) = former {
        keep_permissions(file.as_file(), former)?;
    }
    let mut out = BufWriter::new(&mut file);
    write(Manner::AtOnce, &mut out)?;
    out.flush()?;
    drop(out);
    // Otherwise the name could reach the disk before the content. The name itself may come later: until then the former file is found, which is whole.
    file.as_file().sync_all()?;
    let stamp = Stamp::of(&file.as_file().metadata()?);
    // The lock is held until the file has its name.
    let _written = file.persist(target)?;
    Ok(stamp)
}

/// A new file, locked. In the same directory, since only within a file system is a rename atomic. On Unix nobody but the owner may read it.
fn unfinished(directory: &Path) -> io::Result<NamedTempFile> {
    for _ in 0..ATTEMPTS {
        let file = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(directory)?;
        // Between creation and lock, another process may take the file for an unfinished one and remove it.
        if lock(file.as_file()) != Lock::Taken && is_named(&file) {
            return Ok(file);
        }
    }
    Err(io::Error::new(ErrorKind::WouldBlock, "unfinished files are removed again and again"))
}

fn is_named(file: &NamedTempFile) -> bool {
    fs::symlink_metadata(file.path()).is_ok()
}

/// Overwrites the file. It is emptied first, so that what is left by a crash is the beginning of the new content and nothing of the old one.
fn overwrite(target: &Path, write: &mut impl FnMut(Manner, &mut dyn Write) -> io::Result<()>) -> io::Result<Stamp> {
    let file = OpenOptions::new().write(true).open(target)?;
    if lock(&file) == Lock::Taken {
        return Err(io::Error::new(ErrorKind::WouldBlock, "another process writes it"));
    }
    file.set_len(0)?;
    let mut out = BufWriter::new(&file);
    write(Manner::InPlace, &mut out)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    Ok(Stamp::of(&file.metadata()?))
}

/// Removes the unfinished files in the directory of this file that nobody writes. What cannot be removed stays: it does no harm.
pub(super) fn tidy(path: &Path) {
    let Ok(target) = follow(path) else { return };
    let Ok(entries) = fs::read_dir(directory_of(&target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        // Of the entry itself: a link is none of ours.
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            remove_if_dead(&entry.path());
        }
    }
}

fn remove_if_dead(path: &Path) {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return };
    // The lock is held until the file is removed. A process that has just made the file gets the lock after that and sees that its file is gone.
    if lock(&file) == Lock::Ours {
        let _ = fs::remove_file(path);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Ours,
    Taken,
    /// The file system, or the system, has none.
    Unknown,
}

#[cfg(unix)]
fn lock(file: &File) -> Lock {
    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;
    // Of this opening of the file, not of the process: two views of one process see each other's.
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Ours,
        Err(Errno::WOULDBLOCK) => Lock::Taken,
        Err(_) => Lock::Unknown,
    }
}

#[cfg(not(unix))]
fn lock(_: &File) -> Lock {
    Lock::Unknown
}

/// Gives a new file the permissions and the owner of the former one. Where the owner cannot be given, the group and others of another owner get nothing.
#[cfg(unix)]
fn keep_permissions(file: &File, former: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
    let own = file.metadata()?;
    let is_same = (own.uid(), own.gid()) == (former.uid(), former.gid());
    let is_same = is_same || fchown(file, Some(former.uid()), Some(former.gid())).is_ok();
    let mode = former.mode() & if is_same { 0o777 } else { 0o700 };
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn keep_permissions(_: &File, _: &Metadata) -> io::Result<()> {
    Ok(())
}
