//! `PerEntry`: the valid entries of a map, and the problems of the others.

use std::collections::BTreeMap;

use crate::error::Problem;

/// The valid entries of a map, and the problems of the others; returned by
/// [`EntryMap::get_per_entry`](crate::EntryMap::get_per_entry) and
/// [`DirMap::get_per_entry`](crate::DirMap::get_per_entry).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use etcd_typed::Client;
///
/// let client = Client::connect("memory:").await?;
/// let ports = client.entries::<String, u16>("/services")?;
/// ports.entry("old")?.set(&80).await?;
/// client.entry::<String>("/services/new")?.set(&"tcp:8080".to_owned()).await?;
///
/// assert!(ports.get().await.is_err());
/// let read = ports.get_per_entry().await?;
/// assert_eq!(read.entries.get("old"), Some(&80));
/// assert_eq!(read.problems[0].key.as_str(), "/services/new");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PerEntry<K: Ord, V> {
    /// The entries that could be read and are valid.
    pub entries: BTreeMap<K, V>,
    /// Every problem of the other entries, each with its key, revision and reason.
    pub problems: Vec<Problem>,
}
