//! Locks and elections. That two processes never hold the same lock is shown in `mutex`.

mod election;
mod lock;
