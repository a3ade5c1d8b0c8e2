//! The file with a view's last good state: its content, and the checks when the file is read.
//! `replace.rs` contains the code that replaces the file on disk.

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

/// The version of the file format. A file of another version is refused. (Version 1 did not list
/// the keys that its writer looked for. Version 2 was never released.)
const FORMAT: u32 = 3;

/// The path of a view's file, and a description of the view to which the file belongs.
pub(super) struct StateFile {
    pub(super) path: PathBuf,
    pub(super) store: Arc<dyn Store>,
    pub(super) directory: Key,
    pub(super) keeping: Keeping,
}

/// A state to write. Its tree is persistent: it shares unchanged parts with the trees of later
/// states.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) revision: Revision,
    pub(super) tree: KeptTree,
    /// The cluster from which the state was read.
    pub(super) origin: Arc<Identity>,
}

/// The stored values by relative key.
pub(super) type KeptTree = RedBlackTreeMapSync<String, Stored>;

/// The reason why a file cannot be used.
pub(super) enum Unusable {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// The file is not JSON of the right form. Errors do not quote its content, since the path may
    /// lead to any file.
    Damaged(serde_json::Error),
    /// The file is incomplete.
    Torn,
    /// The file has another version of the format.
    Format(u32),
    /// The file belongs to another view or another cluster.
    Foreign { is_of: String, wanted: String },
    /// A read of this field uses this key, but the writer of the file did not keep the key.
    Unknown { field: String, key: String },
}

/// The document that is stored as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    etcd_typed_snapshot: u32,
    /// The checksum of the document without this field. It exists only if the file was written in
    /// place. This field is near the beginning, so that an incomplete file still has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
    store: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    endpoints: Vec<String>,
    directory: String,
    view: String,
    /// The keys that the writer looked for, as in [`Look::keys`].
    keys: BTreeSet<String>,
    revision: u64,
    /// The stored values, by relative key.
    entries: BTreeMap<String, Entry>,
}

/// The part that all versions of the format share.
#[derive(Deserialize)]
struct Header {
    etcd_typed_snapshot: u32,
}

/// One key. The file keeps its revisions, so that a value from the view works in a
/// compare-and-swap. The file does not keep its lease, since the lease may have ended.
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
    /// A value that is not UTF-8.
    Bytes(Vec<u8>),
}

impl StateFile {
    /// Replaces the content of the file with this state.
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

    /// Removes the unfinished files that ended processes left in the file's directory.
    pub(super) fn tidy(&self) {
        replace::tidy(&self.path);
    }

    /// Returns an error if something other than a file exists at the path.
    pub(super) fn check_kind(&self) -> Result<(), Unusable> {
        match replace::existing(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(Unusable::Unreadable(error)),
            _ => Ok(()),
        }
    }

    /// Reads the state, and returns it in the form of a mirror, as if it came from a watch.
    pub(super) fn read(&self) -> Result<Mirror, Unusable> {
        let document = self.document()?;
        // A field may have become a secret, or left the schema, since the file was written.
        let kept = document.entries.into_iter().filter(|(relative, _)| (self.keeping.keeps)(relative));
        let kvs = kept.map(|(relative, entry)| entry.at(&self.directory.descend(&relative))).collect();
        let snapshot = Snapshot { revision: Revision::new(document.revision), kvs, known: true, reason: Reason::Start };
        Ok(Mirror::new(self.directory.clone(), snapshot))
    }

    /// Whether the file holds this state, or a later state of the same cluster that another process
    /// with the same view wrote.
    pub(super) fn holds(&self, kept: &Kept) -> Result<bool, Unusable> {
        match self.document() {
            Ok(document) => Ok(document.revision >= kept.revision.get() && document.cluster == kept.origin.cluster),
            Err(foreign @ Unusable::Foreign { .. }) => Err(foreign),
            Err(_) => Ok(false),
        }
    }

    /// Returns the stamp of the file as it is now.
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

    /// Refuses a file of another cluster. If both cluster IDs are known, they are compared. A
    /// client that has had no answer knows only its endpoints. If none of these was used when the
    /// file was written, the file may belong to any cluster, and is refused.
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

/// Finds a key that a read of the view uses, but that the file's writer did not keep.
fn unknown(looks: &[Look], document: &Document) -> Option<Unusable> {
    let key_of = |look: &Look| {
        for key in &look.keys {
            if !document.keys.contains(key) {
                return Some(key.clone());
            }
            // A read uses the first key that exists, so it does not use the keys after this one. In
            // a map the other keys are still needed, since they may belong to further entries.
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
    /// Returns the checksum of the document: its length and a hash (FNV-1a). The document must not
    /// contain a checksum yet.
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

/// Returns a key for messages, with `*` in place of the names in a map.
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
            Self::Torn => f.write_str("damaged: it is incomplete"),
            Self::Damaged(error) => write!(f, "damaged, or not a snapshot (line {}, column {})", error.line(), error.column()),
            Self::Format(format) => write!(f, "its format is {format}, and only {FORMAT} can be read"),
            Self::Foreign { is_of, wanted } => write!(f, "it belongs to {is_of}, not to {wanted}"),
            Self::Unknown { field, key } => {
                let (field, key) = (shown(field), shown(key));
                write!(f, "it has no information about `{field}`: the program that wrote it did not keep the key `{key}`")
            }
        }
    }
}
