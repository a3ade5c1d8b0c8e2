//! The file that a view's last good state is kept in: what is in it, what is taken from it, and how it is replaced.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use crate::changes::Mirror;
use crate::key::Key;
use crate::live::view::Keeping;
use crate::revision::Revision;
use crate::schema::Stored;
use crate::store::KeyValue;
use crate::watch::{Reason, Snapshot};

/// The version of the format. A file of another one is not read.
const FORMAT: u32 = 1;

/// Where a view's state is kept, and whose it is.
pub(super) struct StateFile {
    pub(super) path: PathBuf,
    /// Revisions of one kind of store mean nothing to another.
    pub(super) store: &'static str,
    pub(super) directory: Key,
    pub(super) keeping: Keeping,
}

/// A state as it is kept. Persistent, so that what is being written and what comes after share what is the same.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) revision: Revision,
    pub(super) tree: KeptTree,
}

/// Relative keys and what is stored there.
pub(super) type KeptTree = RedBlackTreeMapSync<String, Stored>;

/// Why a file is of no use.
pub(super) enum Unusable {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is not JSON of this form. What it is instead is not quoted: it may be any file.
    Damaged(serde_json::Error),
    /// It is of another version of the format.
    Format(u32),
    /// It is of another view.
    Foreign { is_of: String, wanted: String },
}

/// The document, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    etcd_typed_snapshot: u32,
    store: String,
    directory: String,
    view: String,
    revision: u64,
    /// By relative key.
    entries: BTreeMap<String, Entry>,
}

/// What every version of the format has.
#[derive(Deserialize)]
struct Header {
    etcd_typed_snapshot: u32,
}

/// One key. Its revisions are kept so that what is read from the view serves a compare-and-swap; a lease is not, since it may be gone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    value: Value,
    created: u64,
    modified: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    /// What is not UTF-8.
    Bytes(Vec<u8>),
}

impl StateFile {
    /// Replaces the file by one with this state: whoever reads it, or finds it after a crash, finds the one before or this one, whole.
    pub(super) fn write(&self, kept: &Kept) -> io::Result<()> {
        let document = Document {
            etcd_typed_snapshot: FORMAT,
            store: self.store.to_owned(),
            directory: self.directory.as_str().to_owned(),
            view: self.keeping.what.clone(),
            revision: kept.revision.get(),
            entries: kept.tree.iter().map(|(relative, stored)| (relative.clone(), Entry::from(stored))).collect(),
        };
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // In the same directory, since only within a file system is a rename atomic. On Unix nobody but the owner may read it.
        let mut file = tempfile::Builder::new().prefix(".etcd-typed-").suffix(".tmp").tempfile_in(directory)?;
        let mut writer = BufWriter::new(&mut file);
        serde_json::to_writer(&mut writer, &document)?;
        writer.write_all(b"\n")?;
        writer.flush()?;
        drop(writer);
        // Else the name could be on the disk before what it names. The name itself may come later: the one before is whole as well.
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }

    /// The state in the file, as if a watch had told it.
    pub(super) fn read(&self) -> Result<Mirror, Unusable> {
        let bytes = fs::read(&self.path).map_err(Unusable::Unreadable)?;
        let Header { etcd_typed_snapshot } = serde_json::from_slice(&bytes).map_err(Unusable::Damaged)?;
        if etcd_typed_snapshot != FORMAT {
            return Err(Unusable::Format(etcd_typed_snapshot));
        }
        let document: Document = serde_json::from_slice(&bytes).map_err(Unusable::Damaged)?;
        let is_of = describe(&document.view, &document.directory, &document.store);
        let wanted = describe(&self.keeping.what, self.directory.as_str(), self.store);
        if is_of != wanted {
            return Err(Unusable::Foreign { is_of, wanted });
        }
        // A field that has become a secret, or is the schema's no more, since the file was written.
        let kept = document.entries.into_iter().filter(|(relative, _)| (self.keeping.keeps)(relative));
        let kvs = kept.map(|(relative, entry)| entry.at(&self.directory.descend(&relative))).collect();
        let snapshot = Snapshot { revision: Revision::new(document.revision), kvs, known: true, reason: Reason::Start };
        Ok(Mirror::new(self.directory.clone(), snapshot))
    }
}

fn describe(view: &str, directory: &str, store: &str) -> String {
    format!("{view} in {directory} ({store})")
}

impl From<&Stored> for Entry {
    fn from(stored: &Stored) -> Self {
        let value = match std::str::from_utf8(&stored.value) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(stored.value.to_vec()),
        };
        Self { value, created: stored.created.get(), modified: stored.modified.get(), version: stored.version }
    }
}

impl Entry {
    fn at(self, key: &Key) -> KeyValue {
        let value = match self.value {
            Value::Text(text) => Bytes::from(text),
            Value::Bytes(bytes) => Bytes::from(bytes),
        };
        KeyValue {
            key: Bytes::copy_from_slice(key.as_str().as_bytes()),
            value,
            created: Revision::new(self.created),
            modified: Revision::new(self.modified),
            version: self.version,
            lease: None,
            ttl: None,
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Damaged(error) => write!(f, "damaged, or not a snapshot (line {}, column {})", error.line(), error.column()),
            Self::Format(format) => write!(f, "its format is {format}, and only {FORMAT} can be read"),
            Self::Foreign { is_of, wanted } => write!(f, "it is of {is_of}, and not of {wanted}"),
        }
    }
}
