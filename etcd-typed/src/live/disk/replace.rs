//! Replaces the content of a file.
//!
//! A new file is written beside the target and renamed to the target. So a reader finds either the
//! old content or the new content, and each is complete, even after a crash. Links are followed to
//! their target. If no file can be renamed to the target (a bind mount, a read-only directory), the
//! target is overwritten. Then the writer adds a checksum, with which a reader detects an
//! incomplete file.
//!
//! A killed process leaves its unfinished file behind. A writer holds a lock on its file, and the
//! lock ends with the process. So [`tidy`] recognizes the unfinished files of ended processes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

const PREFIX: &str = ".etcd-typed-";
const SUFFIX: &str = ".tmp";

/// The maximum number of links to follow, as on Linux.
const LINKS: usize = 40;

/// The number of names that are tried for a new file. Another name is needed if [`tidy`] in another
/// process is about to remove the file.
const ATTEMPTS: usize = 8;

/// The way in which the content is written to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// The content is replaced at once, by a rename.
    AtOnce,
    /// The file is overwritten. A crash leaves a part of the new content.
    InPlace,
}

/// Identifies a file and its last write, so that a replacement by another process is detected.
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

/// Replaces the content of the file at this path with the output of `write`.
pub(super) fn replace(path: &Path, mut write: impl FnMut(Manner, &mut dyn Write) -> io::Result<()>) -> io::Result<Stamp> {
    let target = follow(path)?;
    let former = existing(&target)?;
    match put(&target, former.as_ref(), &mut write) {
        Err(error) if former.is_some() && is_about_the_place(&error) => {
            overwrite(&target, &mut write).map_err(|second| match second.kind() {
                // The target cannot be written at all. The first error says more about the cause.
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => error,
                _ => second,
            })
        }
        done => done,
    }
}

/// Returns the metadata of the file at this path, following links, or `None` if it does not exist.
///
/// # Errors
///
/// `InvalidInput` if the path is not a regular file. For example, a read of a FIFO would wait
/// forever.
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

/// Returns the path to which a link leads, even if there is no file at that path. A rename to the
/// path of the link would replace the link itself.
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

/// Returns true if this error means that no file can be renamed to the path, although the existing
/// file may still be writable.
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
    // Without this, the new name could reach the disk before the content. If a crash loses the
    // rename, the old file is still there, and complete.
    file.as_file().sync_all()?;
    let stamp = Stamp::of(&file.as_file().metadata()?);
    // The lock is held until the file has its final name.
    let _written = file.persist(target)?;
    Ok(stamp)
}

/// Creates a locked file in the target's directory, since a rename is atomic only within a file
/// system. On Unix only its owner may read the file.
fn unfinished(directory: &Path) -> io::Result<NamedTempFile> {
    for _ in 0..ATTEMPTS {
        let file = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(directory)?;
        // Between creation and lock, another process may consider the file abandoned and remove it.
        if lock(file.as_file()) != Lock::Taken && is_named(&file) {
            return Ok(file);
        }
    }
    Err(io::Error::new(ErrorKind::WouldBlock, "unfinished files are removed again and again"))
}

fn is_named(file: &NamedTempFile) -> bool {
    fs::symlink_metadata(file.path()).is_ok()
}

/// Overwrites the file. The file is emptied first, so that after a crash it has only the beginning
/// of the new content, and nothing of the old content.
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

/// Removes the unfinished files of ended processes in the directory of this file. A file that
/// cannot be removed stays; it does no harm.
pub(super) fn tidy(path: &Path) {
    let Ok(target) = follow(path) else { return };
    let Ok(entries) = fs::read_dir(directory_of(&target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        // `file_type` does not follow links. This module never creates a link, so a link is left
        // alone.
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            remove_if_dead(&entry.path());
        }
    }
}

fn remove_if_dead(path: &Path) {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return };
    // The lock is held until the file is removed. If another process has just created the file,
    // that process gets the lock afterwards, and sees that its file no longer exists.
    if lock(&file) == Lock::Ours {
        let _ = fs::remove_file(path);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Ours,
    Taken,
    /// The file system or the operating system has no locks.
    Unknown,
}

#[cfg(unix)]
fn lock(file: &File) -> Lock {
    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;
    // The lock belongs to this open file, not to the process, so two views of one process exclude
    // each other.
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

/// Gives a new file the permissions and the owner of the old one. If the owner cannot be set, the
/// group and other users get no permissions.
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
