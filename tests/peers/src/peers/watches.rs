//! The traits that the watch cases need of a peer in Rust.

use crate::Result;
use crate::tally::Tally;

/// The watched keys are below this directory. Their names are two digits, from 00 on. `go/watch.go`
/// uses the same directory and names.
pub(crate) const DIRECTORY: &str = "/events";
/// The number of watched keys.
pub(crate) const KEYS: usize = 100;

/// A client that watches, and writes to the first key.
pub(crate) trait Watches: Clone + Send + Sync + Sized + 'static {
    type Directory: Watcher;
    type Key: Watcher;

    fn connect(address: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Puts a value to the first key, and returns the revision.
    fn put(&self, value: &[u8]) -> impl Future<Output = Result<u64>> + Send;

    /// Watches all keys below the directory, from the changes after this revision on, or from now
    /// on.
    fn watch_directory(&self, since: Option<u64>) -> impl Future<Output = Result<Self::Directory>> + Send;

    /// Watches the first key. When this returns, the server has created the watch, so the watch
    /// sees every later write.
    fn watch_key(&self) -> impl Future<Output = Result<Self::Key>> + Send;
}

pub(crate) trait Watcher: Send + 'static {
    /// Waits for the next events and passes each to the tally.
    fn next(&mut self, tally: &mut Tally) -> impl Future<Output = Result<()>> + Send;
}

/// Waits for this number of events.
pub(crate) async fn follow(watcher: &mut impl Watcher, tally: &mut Tally, events: u64) -> Result<()> {
    let wanted = tally.seen() + events;
    while tally.seen() < wanted {
        watcher.next(tally).await?;
    }
    Ok(())
}
