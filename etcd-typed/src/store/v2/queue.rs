//! The bounded queue between the task of a watch and its reader. The queue always ends with a last
//! item.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Event, KeyValue, WatchItem};

/// The maximum number of buffered items.
const MAX_ITEMS: usize = 1024;

/// The maximum bytes of buffered items. A single item may be larger.
const MAX_BYTES: usize = 16 << 20;

/// Returns a queue, and a function that builds the reader from the handle of the task.
pub(super) fn queue() -> (Queue, impl FnOnce(JoinHandle<()>) -> Items) {
    let (sender, receiver) = mpsc::channel(MAX_ITEMS);
    let (last, end) = oneshot::channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    let queue = Queue { sender, last, bytes: bytes.clone() };
    (queue, move |task| Items { receiver, bytes, end: Some(end), task })
}

/// The task's end of the queue.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<WatchItem>,
    last: oneshot::Sender<Result<WatchItem>>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    /// Adds an item. Returns false if the queue is full or the reader is gone.
    pub(super) fn push(&self, item: WatchItem) -> bool {
        let weight = weight(&item);
        let waiting = self.bytes.fetch_add(weight, Ordering::Relaxed);
        let fits = waiting == 0 || waiting.saturating_add(weight) <= MAX_BYTES;
        let taken = fits && self.sender.try_send(item).is_ok();
        if !taken {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        taken
    }

    /// Ends the stream with this item, after all pushed items.
    pub(super) fn finish(self, last: Result<WatchItem>) {
        // This fails only if the reader is gone.
        let _ = self.last.send(last);
    }
}

/// The reader's end of the queue. Dropping the reader aborts the task, which ends the request.
#[derive(Debug)]
pub(super) struct Items {
    receiver: mpsc::Receiver<WatchItem>,
    bytes: Arc<AtomicUsize>,
    /// `None` once the last item was yielded.
    end: Option<oneshot::Receiver<Result<WatchItem>>>,
    task: JoinHandle<()>,
}

impl Stream for Items {
    type Item = Result<WatchItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(item) = ready!(this.receiver.poll_recv(cx)) {
            this.bytes.fetch_sub(weight(&item), Ordering::Relaxed);
            return Poll::Ready(Some(Ok(item)));
        }
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        let last = ready!(Pin::new(end).poll(cx));
        this.end = None;
        Poll::Ready(Some(last.unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "the runtime of the watch is shutting down")))))
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn weight(item: &WatchItem) -> usize {
    let kv = |kv: &KeyValue| kv.key.len() + kv.value.len();
    let WatchItem::Batch(batch) = item else { return 0 };
    let before = |previous: &Option<Box<KeyValue>>| previous.as_deref().map_or(0, |before| size_of::<KeyValue>() + kv(before));
    let event = |event: &Event| match event {
        Event::Put { kv: new, previous } => kv(new) + before(previous),
        Event::Delete { key, previous, .. } => key.len() + before(previous),
    };
    batch.events.iter().map(|one| size_of::<Event>() + event(one)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Revision;
    use crate::store::Batch;
    use bytes::Bytes;
    use futures_util::StreamExt;

    fn batch(size: usize) -> WatchItem {
        let key = Bytes::from(vec![b'k'; size]);
        WatchItem::Batch(Batch { revision: Revision::new(1), events: vec![Event::Delete { key, directory: false, previous: None }] })
    }

    fn idle() -> JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    #[tokio::test]
    async fn last_item_follows_buffered_items() {
        let (queue, items) = queue();
        let mut items = items(idle());
        for _ in 0..MAX_ITEMS {
            assert!(queue.push(batch(1)));
        }
        assert!(!queue.push(batch(1)));
        queue.finish(Ok(WatchItem::Lagged));
        for _ in 0..MAX_ITEMS {
            assert_eq!(items.next().await.unwrap().unwrap(), batch(1));
        }
        assert_eq!(items.next().await.unwrap().unwrap(), WatchItem::Lagged);
        assert!(items.next().await.is_none());
    }

    #[tokio::test]
    async fn only_single_item_may_exceed_byte_limit() {
        let (queue, items) = queue();
        let mut items = items(idle());
        assert!(queue.push(batch(MAX_BYTES + 1)));
        assert!(!queue.push(batch(1)));
        items.next().await.unwrap().unwrap();
        let rest = MAX_BYTES - 2 * size_of::<Event>() - 1;
        assert!(queue.push(batch(rest)) && queue.push(batch(1)) && !queue.push(batch(1)));
    }

    #[tokio::test]
    async fn reader_gets_error_when_task_ends() {
        let (queue, items) = queue();
        let mut items = items(idle());
        drop(queue);
        assert_eq!(items.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(items.next().await.is_none());
    }

    #[tokio::test]
    async fn dropping_stream_ends_task() {
        let (_queue, items) = queue();
        let (alive, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let _alive = alive;
            std::future::pending().await
        });
        drop(items(task));
        assert!(ended.await.is_err());
    }
}
