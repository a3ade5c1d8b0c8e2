//! The files of `or_snapshot`. `schemas` and `clusters` test which files a program with another
//! schema or another cluster may start from. `disk` tests how files are written. `early` tests when
//! a view no longer waits for a server. `live_snapshot.rs` tests how views use the files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod clusters;
mod disk;
mod early;
mod schemas;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::{Client, Error, ErrorKind, EtcdSchema, Live, Revision};
use etcd_typed_tests::waiting::{soon, until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

/// A time that is longer than any backoff. Time is paused.
const LONG: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(10);

/// An embedded store and a directory for files.
struct Bench {
    store: MemoryStore,
    client: Client,
    files: TempDir,
}

impl Bench {
    fn new() -> Self {
        let store = MemoryStore::new();
        Self { client: Client::with_store(store.clone()), store, files: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.files.path().join("view.json")
    }

    /// Stores these texts below `/app`.
    async fn put(&self, values: &[(&str, &str)]) {
        for (key, text) in values {
            self.client.entry::<String>(&format!("/app/{key}")).unwrap().set(&(*text).to_owned()).await.unwrap();
        }
    }
}

fn document(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Returns true if the file holds the state of this revision.
fn holds(path: &Path, revision: Revision) -> bool {
    document(path).is_some_and(|document| document["revision"] == revision.get())
}

/// Opens a live view of the struct in `/app` with this file.
async fn view<S: EtcdSchema>(client: &Client, path: &Path) -> Result<Live<S>, Error>
where
    S::Handle: std::ops::Deref<Target = etcd_typed::Dir<S>>,
{
    soon(client.dir::<S>("/app").unwrap().live().or_snapshot(path)).await
}

/// Opens a view with this schema and waits until it has saved its state.
async fn keep<S: EtcdSchema>(client: &Client, path: &Path)
where
    S::Handle: std::ops::Deref<Target = etcd_typed::Dir<S>>,
{
    let live = view::<S>(client, path).await.unwrap();
    let revision = live.get().revision();
    until(|| holds(path, revision)).await;
}

/// Checks that the view did not start, because the server cannot be reached and the file is
/// refused. Returns the error message.
fn refusal<T>(started: Result<Live<T>, Error>) -> String {
    let error = started.map(drop).expect_err("the file is refused");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "the same error as without a file: {error}");
    error.to_string()
}
