//! Transactions on one key, and operations on directories.

use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use super::V2Store;
use super::encode::{self, Parameters};
use super::json::{Change, Node, Refusal, Reply};
use super::plan::{self, Check, Guard, Put, Step, StepPlan};
use super::range::Depth;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::Revision;
use crate::store::{Committed, Condition, Consistency, Expiry, KeyValue, OpResult, RangeReply, Txn};

/// The outcome of a conditional request.
enum Attempt {
    Done(Committed),
    /// The condition did not hold when the server was at this revision.
    Failed(Revision),
}

impl V2Store {
    pub(super) async fn commit_txn(&self, txn: Txn) -> Result<Committed> {
        let plan = StepPlan::of(txn)?;
        self.perform(&plan).await.map_err(|error| error.at(&plan.key))
    }

    async fn perform(&self, plan: &StepPlan) -> Result<Committed> {
        let key = &plan.key;
        match &plan.step {
            Step::Put(_) | Step::Delete { .. } => match plan.check() {
                Check::Server(guard) => self.checked_by_server(plan, guard).await,
                Check::Lease(id) => {
                    let guard = self.leases.attached_at(id, key).await.map(Guard::Index);
                    if let Some(guard) = guard
                        && let Attempt::Done(committed) = self.attempt(plan, &guard).await?
                    {
                        return Ok(committed);
                    }
                    // The condition may have failed only because a keep-alive of this process
                    // changed the index. `checked_here` finds out with a read.
                    self.checked_here(plan).await
                }
                Check::Read => self.checked_here(plan).await,
            },
            Step::Check | Step::Read => self.checked_here(plan).await,
            Step::ReadBelow => {
                let reply = self.read_below(key, Consistency::Linearizable, Depth::All).await?;
                Ok(committed(reply.revision, OpResult::Get(reply)))
            }
            Step::DeleteBelow { previous } => self.delete_below(key, *previous).await,
            Step::MakeDir { ttl } => {
                let form = with_ttl(Parameters::default().flag("dir").with("prevExist", "false"), ttl.map(plan::seconds));
                self.change_directory(key, Method::PUT, form).await
            }
            Step::UpdateDir { ttl } => {
                self.must_be_directory(key).await?;
                let form = with_ttl(Parameters::default().flag("dir").flag("prevExist"), ttl.map(plan::seconds));
                // A key may have replaced the directory since the check above. A refresh keeps the
                // value of that key, while a plain update would empty it.
                let form = if ttl.is_some() { form.flag("refresh") } else { form };
                self.change_directory(key, Method::PUT, form).await
            }
            Step::RemoveDir => {
                // Without this check, the same request would delete a key with a value.
                self.must_be_directory(key).await?;
                self.change_directory(key, Method::DELETE, Parameters::default().flag("dir")).await
            }
        }
    }

    async fn checked_by_server(&self, plan: &StepPlan, guard: Guard) -> Result<Committed> {
        let mut guard = self.followed(&plan.key, guard).await;
        let revision = loop {
            match self.attempt(plan, &guard).await? {
                Attempt::Done(committed) => return Ok(committed),
                Attempt::Failed(revision) => {
                    // If a keep-alive of this process changed the index meanwhile, the condition
                    // may have failed only for that reason. Then try again with the new index.
                    let now = self.followed(&plan.key, guard.clone()).await;
                    if now == guard {
                        break revision;
                    }
                    guard = now;
                }
            }
        };
        if !plan.read_otherwise {
            return Ok(Committed { revision, succeeded: false, results: Vec::new() });
        }
        let current = self.read_key(&plan.key, Consistency::Linearizable).await?;
        Ok(failed(current, true))
    }

    /// Reads the key, checks the conditions in this process, and writes on the condition that the
    /// key has not changed since the read. If the key has changed, starts again.
    async fn checked_here(&self, plan: &StepPlan) -> Result<Committed> {
        let mut retry = OptimisticRetry::without_budget(&self.retry);
        let mut found = self.read_key(&plan.key, Consistency::Linearizable).await?;
        loop {
            let current = found.kvs.first();
            let mut hold = true;
            for condition in &plan.conditions {
                hold &= match condition {
                    Condition::Lease(id) => match current {
                        Some(kv) => self.leases.has(*id, &plan.key, kv).await,
                        None => false,
                    },
                    Condition::Modified(revision) => {
                        let followed = Condition::Modified(self.leases.follow(&plan.key, *revision).await);
                        plan::holds(&followed, current)
                    }
                    other => plan::holds(other, current),
                };
            }
            if !hold {
                return Ok(failed(found, plan.read_otherwise));
            }
            let guard = current.map_or(Guard::Absent, |kv| Guard::Index(kv.modified));
            let revision = found.revision;
            match (&plan.step, &guard) {
                (Step::Read, _) => return Ok(committed(revision, OpResult::Get(found))),
                (Step::Put(_), _) | (Step::Delete { .. }, Guard::Index(_)) => {}
                (Step::Delete { .. }, _) => return Ok(committed(revision, nothing_deleted())),
                _ => return Ok(Committed { revision, succeeded: true, results: Vec::new() }),
            }
            if let Attempt::Done(committed) = self.attempt(plan, &guard).await? {
                return Ok(committed);
            }
            found = match retry.after_conflict(None, self.read_key(&plan.key, Consistency::Linearizable)).await? {
                AfterConflict::Retry(found) => found,
                AfterConflict::GiveUp(_) => {
                    return Err(Error::new(ErrorKind::Timeout, "others write the key so often that its condition could not be checked"));
                }
            };
        }
    }

    async fn followed(&self, key: &Key, guard: Guard) -> Guard {
        match guard {
            Guard::Index(revision) => Guard::Index(self.leases.follow(key, revision).await),
            other => other,
        }
    }

    /// Sends the plan's write with this condition.
    async fn attempt(&self, plan: &StepPlan, guard: &Guard) -> Result<Attempt> {
        let key = &plan.key;
        let reply = match &plan.step {
            Step::Put(put) => self.put(key, put, guard).await?,
            _ => self.delete(key, guard).await?,
        };
        let refusal = match reply.outcome {
            Ok(change) => {
                let revision = Revision::new(change.node.modified_index);
                let result = match &plan.step {
                    Step::Put(put) => OpResult::Put(previous(change, put.previous)),
                    Step::Delete { previous: asked } => {
                        OpResult::Delete { deleted: 1, previous: previous(change, *asked).into_iter().collect() }
                    }
                    _ => OpResult::Done,
                };
                return Ok(Attempt::Done(committed(revision, result)));
            }
            Err(refusal) => refusal,
        };
        match (guard, refusal.code) {
            (Guard::Absent, Refusal::EXISTS)
            | (Guard::Present, Refusal::NOT_FOUND)
            | (Guard::Index(_) | Guard::Value(_), Refusal::NOT_FOUND | Refusal::COMPARE_FAILED) => Ok(Attempt::Failed(reply.index)),
            (Guard::None, Refusal::NOT_FOUND) if matches!(plan.step, Step::Delete { .. }) => {
                Ok(Attempt::Done(committed(reply.index, nothing_deleted())))
            }
            _ => Err(refusal.into_error()),
        }
    }

    async fn put(&self, key: &Key, put: &Put, guard: &Guard) -> Result<Reply> {
        match put.expiry {
            Expiry::With(id) => self.put_with_lease(id, key, &put.value, guard).await,
            Expiry::Never | Expiry::After(_) => {
                let ttl = match put.expiry {
                    // A time to live of zero expires at once; any other is sent as at least one
                    // second.
                    Expiry::After(Duration::ZERO) => Some(0),
                    Expiry::After(ttl) => Some(plan::seconds(ttl)),
                    _ => None,
                };
                let sent = Instant::now();
                let reply = self.send_put(key, &put.value, ttl, guard).await?;
                if let Ok(change) = &reply.outcome {
                    self.leases.detach(key).await;
                    let deadline = if let Expiry::After(ttl) = put.expiry { sent.checked_add(ttl) } else { None };
                    self.leases.ends(key, Revision::new(change.node.modified_index), deadline);
                }
                Ok(reply)
            }
        }
    }

    pub(super) async fn send_put(&self, key: &Key, value: &str, ttl: Option<u64>, guard: &Guard) -> Result<Reply> {
        let form = conditioned(with_ttl(Parameters::default().with("value", value), ttl), guard);
        self.http.write(Method::PUT, &encode::path(key)?, Some(form.into_form())).await
    }

    async fn delete(&self, key: &Key, guard: &Guard) -> Result<Reply> {
        let reply = self.send_delete(key, guard).await?;
        if reply.outcome.is_ok() {
            self.leases.detach(key).await;
        }
        Ok(reply)
    }

    pub(super) async fn send_delete(&self, key: &Key, guard: &Guard) -> Result<Reply> {
        // The condition goes into the URL: the server ignores the body of a `DELETE` request, and
        // would delete the key unconditionally.
        let target = conditioned(Parameters::default(), guard).behind(&encode::path(key)?);
        self.http.write(Method::DELETE, &target, None).await
    }

    /// Deletes a directory with its contents, hidden names included. The previous values come from
    /// an earlier read, because the server's answer does not contain them.
    async fn delete_below(&self, key: &Key, previous: bool) -> Result<Committed> {
        // The read also checks that `key` is a directory. Without that check, the same request
        // would delete a key with a value, although that key is not below itself.
        let depth = if previous { Depth::All } else { Depth::One };
        let found = self.read_below(key, Consistency::Linearizable, depth).await?;
        if found.directory.is_none() {
            return Ok(committed(found.revision, nothing_deleted()));
        }
        let target = Parameters::default().flag("recursive").behind(&encode::path(key)?);
        let reply = self.http.write(Method::DELETE, &target, None).await?;
        match reply.outcome {
            Ok(change) => {
                self.leases.detach_below(key).await;
                let previous = if previous { found.kvs } else { Vec::new() };
                Ok(committed(Revision::new(change.node.modified_index), OpResult::Delete { deleted: 1, previous }))
            }
            Err(refusal) if refusal.is_not_found() => Ok(committed(reply.index, nothing_deleted())),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    async fn must_be_directory(&self, key: &Key) -> Result<()> {
        let found = self.read_below(key, Consistency::Linearizable, Depth::One).await?;
        if found.directory.is_some() { Ok(()) } else { Err(Error::new(ErrorKind::NotFound, "there is no such directory")) }
    }

    async fn change_directory(&self, key: &Key, method: Method, parameters: Parameters) -> Result<Committed> {
        let path = encode::path(key)?;
        let reply = if method == Method::DELETE {
            self.http.write(method, &parameters.behind(&path), None).await?
        } else {
            self.http.write(method, &path, Some(parameters.into_form())).await?
        };
        let change = reply.outcome.map_err(Refusal::into_error)?;
        Ok(committed(Revision::new(change.node.modified_index), OpResult::Done))
    }
}

fn with_ttl(parameters: Parameters, ttl: Option<u64>) -> Parameters {
    match ttl {
        Some(seconds) => parameters.number("ttl", seconds),
        None => parameters,
    }
}

fn conditioned(parameters: Parameters, guard: &Guard) -> Parameters {
    match guard {
        Guard::None => parameters,
        Guard::Absent => parameters.with("prevExist", "false"),
        Guard::Present => parameters.flag("prevExist"),
        Guard::Index(revision) => parameters.number("prevIndex", revision.get()),
        Guard::Value(value) => parameters.with("prevValue", value),
    }
}

fn committed(revision: Revision, result: OpResult) -> Committed {
    Committed { revision, succeeded: true, results: vec![result] }
}

fn failed(current: RangeReply, read: bool) -> Committed {
    let results = if read { vec![OpResult::Get(current.clone())] } else { Vec::new() };
    Committed { revision: current.revision, succeeded: false, results }
}

/// Returns the result of a delete that found nothing.
fn nothing_deleted() -> OpResult {
    OpResult::Delete { deleted: 0, previous: Vec::new() }
}

fn previous(change: Change, asked: bool) -> Option<KeyValue> {
    change.previous.filter(|_| asked).map(Node::into_kv)
}
