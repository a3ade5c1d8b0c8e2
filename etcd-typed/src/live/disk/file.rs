//! The file that a view's last good state is kept in: what is in it, and what is taken from it. How it is replaced is `replace.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::replace::{self, Manner, Stamp};
use crate::changes::Mirror;
use crate::key::Key;
use crate::live::view::Keeping;
use crate::revision::Revision;
use crate::schema::{Look, Stored};
use crate::store::{Identity, KeyValue, Store};
use crate::watch::{Reason, Snapshot};

/// The version of the format. A file of another one is not read. (1 did not tell which keys were looked for; 2 was never released.)
const FORMAT: u32 = 3;

/// Where a view's state is kept, and whose it is.
pub(super) struct StateFile {
    pub(super) path: PathBuf,
    pub(super) store: Arc<dyn Store>,
    pub(super) directory: Key,
    pub(super) keeping: Keeping,
}

/// A state as it is kept. Persistent, so that what is being written and what comes after share what is the same.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) revision: Revision,
    pub(super) tree: KeptTree,
    /// The cluster that the state is from.
    pub(super) origin: Arc<Identity>,
}

/// Relative keys and what is stored there.
pub(super) type KeptTree = RedBlackTreeMapSync<String, Stored>;

/// Why a file is of no use.
pub(super) enum Unusable {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is not JSON of this form. What it is instead is not quoted: it may be any file.
    Damaged(serde_json::Error),
    /// It was not written to its end.
    Torn,
    /// It is of another version of the format.
    Format(u32),
    /// The file belongs to another view or another cluster.
    Foreign { is_of: String, wanted: String },
    /// It does not tell what this key was, which a read of this field looks at.
    Unknown { field: String, key: String },
}

/// The document, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    etcd_typed_snapshot: u32,
    /// Only where the file was written in place: of the document without it. Near the beginning, so that a file which is torn after it is known to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
    store: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    endpoints: Vec<String>,
    directory: String,
    view: String,
    /// The keys that were looked for, as in [`Look::keys`].
    keys: BTreeSet<String>,
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
    /// Replaces the content of the file by this state.
    pub(super) fn write(&self, kept: &Kept) -> io::Result<Stamp> {
        let mut document = Document {
            etcd_typed_snapshot: FORMAT,
            check: None,
            store: self.store.capabilities().name.to_owned(),
            cluster: kept.origin.cluster.clone(),
            endpoints: kept.origin.endpoints.clone(),
            directory: self.directory.as_str().to_owned(),
            view: self.keeping.what.clone(),
            keys: self.keeping.looks.iter().flat_map(|look| look.keys.iter().cloned()).collect(),
            revision: kept.revision.get(),
            entries: kept.tree.iter().map(|(relative, stored)| (relative.clone(), Entry::from(stored))).collect(),
        };
        replace::replace(&self.path, |manner, out| {
            document.check = match manner {
                Manner::AtOnce => None,
                Manner::InPlace => Some(document.sum()?),
            };
            serde_json::to_writer(&mut *out, &document)?;
            out.write_all(b"\n")
        })
    }

    /// Removes the unfinished files that dead processes left beside it.
    pub(super) fn tidy(&self) {
        replace::tidy(&self.path);
    }

    /// Refuses a path that names something other than a file. A path that does not exist is fine.
    pub(super) fn check_kind(&self) -> Result<(), Unusable> {
        match replace::existing(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(Unusable::Unreadable(error)),
            _ => Ok(()),
        }
    }

    /// The state in the file, as if a watch had told it.
    pub(super) fn read(&self) -> Result<Mirror, Unusable> {
        let document = self.document()?;
        // A field that has become a secret, or is the schema's no more, since the file was written.
        let kept = document.entries.into_iter().filter(|(relative, _)| (self.keeping.keeps)(relative));
        let kvs = kept.map(|(relative, entry)| entry.at(&self.directory.descend(&relative))).collect();
        let snapshot = Snapshot { revision: Revision::new(document.revision), kvs, known: true, reason: Reason::Start };
        Ok(Mirror::new(self.directory.clone(), snapshot))
    }

    /// Whether the file holds this state or a later one, which a process with the same view has written.
    pub(super) fn holds(&self, kept: &Kept) -> Result<bool, Unusable> {
        match self.document() {
            Ok(document) => Ok(document.revision >= kept.revision.get() && document.cluster == kept.origin.cluster),
            Err(foreign @ Unusable::Foreign { .. }) => Err(foreign),
            Err(_) => Ok(false),
        }
    }

    /// What the state of the file is now.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        fs::metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata))
    }

    fn document(&self) -> Result<Document, Unusable> {
        replace::existing(&self.path).map_err(Unusable::Unreadable)?;
        let bytes = fs::read(&self.path).map_err(Unusable::Unreadable)?;
        let Header { etcd_typed_snapshot } = serde_json::from_slice(&bytes).map_err(Unusable::Damaged)?;
        if etcd_typed_snapshot != FORMAT {
            return Err(Unusable::Format(etcd_typed_snapshot));
        }
        let mut document: Document = serde_json::from_slice(&bytes).map_err(Unusable::Damaged)?;
        if let Some(check) = document.check.take()
            && document.sum().ok() != Some(check)
        {
            return Err(Unusable::Torn);
        }
        let is_of = describe(&document.view, &document.directory, &document.store);
        let wanted = describe(&self.keeping.what, self.directory.as_str(), self.store.capabilities().name);
        if is_of != wanted {
            return Err(Unusable::Foreign { is_of, wanted });
        }
        self.compare_origin(&document)?;
        match unknown(&self.keeping.looks, &document) {
            Some(unknown) => Err(unknown),
            None => Ok(document),
        }
    }

    /// Refuses a file of another cluster. The ids decide where both are known. A client that had no answer yet knows only its endpoints: if the
    /// file was written with none of them it may be of any cluster.
    fn compare_origin(&self, document: &Document) -> Result<(), Unusable> {
        let ours = self.store.identity();
        if let (Some(theirs), Some(ours)) = (&document.cluster, &ours.cluster) {
            let foreign = || Unusable::Foreign { is_of: format!("the cluster {theirs}"), wanted: format!("the cluster {ours}") };
            return if theirs == ours { Ok(()) } else { Err(foreign()) };
        }
        let shares_one = ours.endpoints.iter().any(|endpoint| document.endpoints.contains(endpoint));
        if shares_one || ours.endpoints.is_empty() || document.endpoints.is_empty() {
            return Ok(());
        }
        let list = |endpoints: &[String]| format!("the cluster at {}", endpoints.join(","));
        Err(Unusable::Foreign { is_of: list(&document.endpoints), wanted: list(&ours.endpoints) })
    }
}

/// What a read of the view would look at and the file does not tell.
fn unknown(looks: &[Look], document: &Document) -> Option<Unusable> {
    let key_of = |look: &Look| {
        for key in &look.keys {
            if !document.keys.contains(key) {
                return Some(key.clone());
            }
            // A read looks no further. In a map the other keys may tell of more entries.
            if !look.is_in_map && document.entries.contains_key(key) {
                return None;
            }
        }
        None
    };
    let found = looks.iter().find_map(|look| Some((look.keys.first()?.clone(), key_of(look)?)));
    found.map(|(field, key)| Unusable::Unknown { field, key })
}

impl Document {
    /// The length and a hash (FNV-1a) of the document, to be called without a check in it.
    fn sum(&self) -> serde_json::Result<String> {
        struct Sum(u64, u64);
        impl Write for Sum {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                for byte in bytes {
                    self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
                self.1 += bytes.len() as u64;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sum = Sum(0xcbf2_9ce4_8422_2325, 0);
        serde_json::to_writer(&mut sum, self)?;
        let Sum(hash, length) = sum;
        Ok(format!("{length}-{hash:016x}"))
    }
}

fn describe(view: &str, directory: &str, store: &str) -> String {
    format!("{view} in {directory} ({store})")
}

/// A key with `*` for the names in a map.
fn shown(key: &str) -> String {
    let segments: Vec<_> = key.split('/').map(|segment| if segment.is_empty() { "*" } else { segment }).collect();
    segments.join("/")
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
            Self::Torn => f.write_str("damaged: it was not written to its end"),
            Self::Damaged(error) => write!(f, "damaged, or not a snapshot (line {}, column {})", error.line(), error.column()),
            Self::Format(format) => write!(f, "its format is {format}, and only {FORMAT} can be read"),
            Self::Foreign { is_of, wanted } => write!(f, "it is of {is_of}, and not of {wanted}"),
            Self::Unknown { field, key } => {
                let (field, key) = (shown(field), shown(key));
                write!(f, "it does not tell what `{field}` was: the program that wrote it did not keep the key `{key}`")
            }
        }
    }
}
