//! What the cases of watches ask of a peer in Rust.

use crate::Result;
use crate::tally::Tally;

/// What is watched is below this directory: keys of two digits, from 00 on. `go/watch.go` has the same.
pub(crate) const DIRECTORY: &str = "/events";
/// How many of them there are.
pub(crate) const KEYS: usize = 100;

/// A client that watches, and writes to the first key.
pub(crate) trait Watches: Clone + Send + Sync + Sized + 'static {
    type Directory: Watcher;
    type Key: Watcher;

    fn connect(address: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Gives the revision.
    fn put(&self, value: &[u8]) -> impl Future<Output = Result<u64>> + Send;

    /// All below the directory, from the changes after this revision on, or from now on.
    fn watch_directory(&self, since: Option<u64>) -> impl Future<Output = Result<Self::Directory>> + Send;

    /// The first key, from now on. It is there when this returns: what is written from then on is seen.
    fn watch_key(&self) -> impl Future<Output = Result<Self::Key>> + Send;
}

pub(crate) trait Watcher: Send + 'static {
    /// Waits for the next event, or more of them at once, and tells of each.
    fn next(&mut self, tally: &mut Tally) -> impl Future<Output = Result<()>> + Send;
}

/// Waits for so many events.
pub(crate) async fn follow(watcher: &mut impl Watcher, tally: &mut Tally, events: u64) -> Result<()> {
    let wanted = tally.seen() + events;
    while tally.seen() < wanted {
        watcher.next(tally).await?;
    }
    Ok(())
}
