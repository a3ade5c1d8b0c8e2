//! A store wrapper for tasks that move to another runtime when their own runtime ends. The sockets
//! and timers of a call belong to the runtime on which the call began. When such a call is polled
//! on another runtime, it ends with an error, as if its connection had been cut. The caller then
//! repeats the call, or finds out whether it was applied.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::runtime::Id;

use super::{
    BoxFuture, Capabilities, Committed, Identity, Member, Range, RangeReply, Stats, StatsKind, Status, Store, Txn, Watch, WatchItem,
    WatchStream,
};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::LeaseId;
use crate::runtime::{Runtimes, current};

/// Wraps a store for a task that may move to another runtime. The client owns `runtimes`.
pub(crate) fn roaming(store: Arc<dyn Store>, runtimes: &Arc<Runtimes>) -> Arc<dyn Store> {
    Arc::new(Roaming { store, runtimes: Arc::downgrade(runtimes) })
}

#[derive(Debug)]
struct Roaming {
    store: Arc<dyn Store>,
    /// Weak, because the tasks that wait for a runtime belong to `Runtimes` and hold this store.
    runtimes: Weak<Runtimes>,
}

impl Roaming {
    /// Returns the store for a call on the current runtime, and records that runtime.
    fn asked(&self) -> &dyn Store {
        if let Some(runtimes) = self.runtimes.upgrade() {
            runtimes.note();
        }
        &*self.store
    }
}

impl Store for Roaming {
    fn capabilities(&self) -> &Capabilities {
        self.store.capabilities()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>> {
        read(self.asked().range(range))
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
        write(self.asked().commit(txn))
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>> {
        Box::pin(async move {
            let stream = read(self.asked().watch(watch)).await?;
            Ok(Box::pin(Items { stream: Some(stream), runtime: current() }) as WatchStream)
        })
    }

    fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>> {
        write(self.asked().grant(id, ttl))
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        write(self.asked().keep_alive(id))
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>> {
        write(self.asked().revoke(id))
    }

    fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>> {
        read(self.asked().time_to_live(id))
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        read(self.asked().status())
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        read(self.asked().members())
    }

    fn stats(&self, which: StatsKind) -> BoxFuture<'_, Result<Stats>> {
        read(self.asked().stats(which))
    }

    fn history(&self) -> u64 {
        self.store.history()
    }

    fn unreachable_since(&self, began: std::time::Instant) -> Option<Error> {
        self.store.unreachable_since(began)
    }

    fn identity(&self) -> Identity {
        self.store.identity()
    }
}

fn read<T: 'static>(call: BoxFuture<'_, Result<T>>) -> BoxFuture<'_, Result<T>> {
    Box::pin(Call { call: Some(call), runtime: None, writes: false })
}

fn write<T: 'static>(call: BoxFuture<'_, Result<T>>) -> BoxFuture<'_, Result<T>> {
    Box::pin(Call { call: Some(call), runtime: None, writes: true })
}

/// A call that fails when it is polled on another runtime than at its first poll.
struct Call<'c, T> {
    call: Option<BoxFuture<'c, Result<T>>>,
    /// The runtime of the first poll. The outer `None` means not polled yet, the inner one means no
    /// runtime.
    runtime: Option<Option<Id>>,
    writes: bool,
}

impl<T> Future for Call<'_, T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let here = current();
        if *self.runtime.get_or_insert(here) == here
            && let Some(call) = &mut self.call
        {
            return call.as_mut().poll(cx);
        }
        self.call = None;
        let cut = cut();
        Poll::Ready(Err(if self.writes { cut.outcome_unknown() } else { cut }))
    }
}

/// The items of a watch. The stream fails when it is polled on another runtime than the one on
/// which it was opened.
struct Items {
    stream: Option<WatchStream>,
    runtime: Option<Id>,
}

impl Stream for Items {
    type Item = Result<WatchItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let same = self.runtime == current();
        match &mut self.stream {
            Some(stream) if same => stream.as_mut().poll_next(cx),
            Some(_) => {
                self.stream = None;
                Poll::Ready(Some(Err(cut())))
            }
            None => Poll::Ready(None),
        }
    }
}

fn cut() -> Error {
    Error::new(ErrorKind::Unavailable, "the runtime of the call has ended, and another one goes on")
}
