//! Tests of locks and elections. The tests of mutual exclusion between processes are in `mutex`.

mod election;
mod lock;
mod one_lease;
