//! `client.watch`, with a stream for each watch as in the crate's examples, or with many watches on
//! one stream.

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};

use crate::Result;
use crate::peers::watches::{DIRECTORY, Watcher, Watches};
use crate::tally::Tally;

#[derive(Clone)]
pub(crate) struct EtcdClientWatches(Client);

impl EtcdClientWatches {
    /// Opens many watches of the first key on one stream.
    pub(crate) async fn watch_key_often(&self, count: usize) -> Result<OneStream> {
        let mut stream = created(self.0.watch_client().watch(key(), None).await?).await?;
        for _ in 1..count {
            stream.watch(key(), None).await?;
        }
        for _ in 1..count {
            stream = created(stream).await?;
        }
        Ok(OneStream { stream, count })
    }
}

fn key() -> String {
    format!("{DIRECTORY}/00")
}

impl Watches for EtcdClientWatches {
    type Directory = WatchStream;
    type Key = WatchStream;

    async fn connect(address: &str) -> Result<Self> {
        Ok(Self(Client::connect([address], None).await?))
    }

    async fn put(&self, value: &[u8]) -> Result<u64> {
        let answer = self.0.kv_client().put(key(), value, None).await?;
        Ok(answer.header().ok_or("the answer has no header")?.revision().cast_unsigned())
    }

    async fn watch_directory(&self, since: Option<u64>) -> Result<WatchStream> {
        let options = WatchOptions::new().with_prefix();
        let options = match since {
            Some(revision) => options.with_start_revision(revision.cast_signed() + 1),
            None => options,
        };
        created(self.0.watch_client().watch(format!("{DIRECTORY}/"), Some(options)).await?).await
    }

    async fn watch_key(&self) -> Result<WatchStream> {
        created(self.0.watch_client().watch(key(), None).await?).await
    }
}

/// Waits for the next answer, which says that the server has created a watch.
async fn created(mut stream: WatchStream) -> Result<WatchStream> {
    let answer = stream.message().await?.ok_or("the stream ended")?;
    if answer.created() { Ok(stream) } else { Err(format!("the watch was not created: {answer:?}").into()) }
}

impl Watcher for WatchStream {
    async fn next(&mut self, tally: &mut Tally) -> Result<()> {
        see(&self.message().await?.ok_or("the stream ended")?, tally)
    }
}

fn see(answer: &WatchResponse, tally: &mut Tally) -> Result<()> {
    if answer.canceled() {
        return Err(format!("the watch was cancelled: {}", answer.cancel_reason()).into());
    }
    for event in answer.events() {
        let stored = event.kv().filter(|_| event.event_type() == EventType::Put).ok_or("an event that is not a put")?;
        tally.see(stored.mod_revision().cast_unsigned(), stored.value())?;
    }
    Ok(())
}

/// A stream with many watches. One task reads the events of all watches. An application would have
/// to pass the events on.
pub(crate) struct OneStream {
    stream: WatchStream,
    count: usize,
}

impl OneStream {
    /// Waits until each watch has received this number of events. Returns the number of all events.
    pub(crate) async fn follow(mut self, tally: Tally, events: u64) -> Result<u64> {
        // The server numbers the watches of a stream from 0.
        let mut tallies = vec![tally; self.count];
        let mut left = events * self.count as u64;
        while left > 0 {
            let answer = self.stream.message().await?.ok_or("the stream ended")?;
            let watch = usize::try_from(answer.watch_id())?;
            let tally = tallies.get_mut(watch).ok_or_else(|| format!("an event for the unknown watch {watch}"))?;
            let before = tally.seen();
            see(&answer, tally)?;
            left -= tally.seen() - before;
        }
        if tallies.iter().all(|tally| tally.seen() == events) {
            Ok(tallies.iter().map(Tally::seen).sum())
        } else {
            Err("some watches received more events than others".into())
        }
    }
}
