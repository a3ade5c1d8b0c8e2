//! `entry.watch()` and `entries.watch()`.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_typed::{Change, Changes, Client, Entry, EntryChanges, EntryMap, Keyed};

use crate::Result;
use crate::peers::watches::{DIRECTORY, Watcher, Watches};
use crate::tally::Tally;

#[derive(Clone)]
pub(crate) struct EtcdTypedWatches {
    entries: EntryMap<String, Bytes>,
    entry: Entry<Bytes>,
}

impl Watches for EtcdTypedWatches {
    type Directory = Changes<Keyed<String, Change<Bytes>>, BTreeMap<String, Bytes>>;
    type Key = EntryChanges<Bytes>;

    async fn connect(address: &str) -> Result<Self> {
        let client = Client::connect(&format!("etcd://{address}")).await?;
        let entries = client.entries(DIRECTORY)?;
        let entry = entries.entry("00")?;
        Ok(Self { entries, entry })
    }

    async fn put(&self, value: &[u8]) -> Result<u64> {
        Ok(self.entry.set(&Bytes::copy_from_slice(value)).await?.get())
    }

    async fn watch_directory(&self, since: Option<u64>) -> Result<Self::Directory> {
        let watching = self.entries.watch();
        Ok(match since {
            Some(revision) => watching.since(revision).await?,
            None => watching.await?,
        })
    }

    async fn watch_key(&self) -> Result<Self::Key> {
        Ok(self.entry.watch().await?)
    }
}

impl Watcher for Changes<Keyed<String, Change<Bytes>>, BTreeMap<String, Bytes>> {
    async fn next(&mut self, tally: &mut Tally) -> Result<()> {
        let update = Self::next(self).await.ok_or("the stream ended")??;
        update.changes.iter().try_for_each(|keyed| see(&keyed.change, tally))
    }
}

impl Watcher for EntryChanges<Bytes> {
    async fn next(&mut self, tally: &mut Tally) -> Result<()> {
        see(&Self::next(self).await.ok_or("the stream ended")??, tally)
    }
}

fn see(change: &Change<Bytes>, tally: &mut Tally) -> Result<()> {
    if change.resynced {
        return Err(format!("history was lost before revision {}", change.revision).into());
    }
    tally.see(change.revision.get(), change.new.as_deref().unwrap_or_default())
}
