//! The conformance suite: one case for each rule of the [`Store`] contract, the same for every
//! store.
//!
//! [`conformance!`](crate::conformance) turns all cases into tests with names; a store cannot leave
//! one out. The store's [`Capabilities`](crate::store::Capabilities) declare what it cannot do, and
//! the suite then asserts that it refuses as the contract says.
//!
//! ```
//! use std::sync::Arc;
//!
//! use etcd_typed::Revision;
//! use etcd_typed::store::memory::MemoryStore;
//! use etcd_typed::store::{BoxFuture, Store};
//! use etcd_typed::testing::conformance::{Isolation, TestStore};
//!
//! struct Memory(MemoryStore);
//!
//! impl TestStore for Memory {
//!     fn store(&self) -> &dyn Store {
//!         &self.0
//!     }
//!
//!     fn lose_history(&self) -> BoxFuture<'_, ()> {
//!         self.0.faults().compact();
//!         Box::pin(std::future::ready(()))
//!     }
//! }
//!
//! async fn memory(_: Isolation) -> Memory {
//!     Memory(MemoryStore::new())
//! }
//!
//! // In a module of a test crate.
//! etcd_typed::conformance!(memory);
//! # fn main() {}
//! ```

// This file runs the cases; the cases are in the files of their subjects.

mod bench;
mod commit;
mod compare;
mod directory;
mod lease;
mod limits;
mod names;
mod newest;
mod range;
mod server;
mod watch;

use std::time::Duration;

use bench::Bench;

use crate::store::{BoxFuture, Store};

/// The time limit of a case. Only a failing case takes this long, usually because it waits for
/// something.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// A store under test.
pub trait TestStore: Send + Sync {
    /// The store.
    fn store(&self) -> &dyn Store;

    /// Makes the store forget its history: a watch that resumes from an earlier revision no longer
    /// gets the changes before now (etcd v3: a compaction at the newest revision; v2: a thousand
    /// writes to another key). The stored values stay.
    fn lose_history(&self) -> BoxFuture<'_, ()>;
}

/// Whether a case can share its store with other cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Other cases use the store too, in directories of their own. It keeps its history meanwhile.
    Shared,
    /// The case has the store for itself: the case makes it lose its history, or writes very much.
    Alone,
}

/// Generates the functions of the cases, and a macro for the tests that call them, from one list.
macro_rules! cases {
    ($dollar:tt $($module:ident { $($isolation:ident $case:ident,)* })*) => {
        /// The cases. [`conformance!`](crate::conformance) calls them.
        pub mod cases {
            use super::{Isolation, TestStore, run};

            $($(
                /// Runs the case with this name on the store that `setup` returns.
                ///
                /// # Panics
                ///
                /// If the store breaks the contract.
                pub fn $case<S: TestStore>(setup: impl AsyncFnOnce(Isolation) -> S) {
                    run(stringify!($case), Isolation::$isolation, setup, |bench| Box::pin(super::$module::$case(bench)));
                }
            )*)*
        }

        /// Generates a test for each case of the conformance suite, with the name of the case. The
        /// argument is the path of an `async fn(Isolation) -> impl TestStore`.
        #[macro_export]
        macro_rules! conformance {
            ($dollar setup:path) => {
                $($(
                    #[test]
                    fn $case() {
                        $dollar crate::testing::conformance::cases::$case($dollar setup);
                    }
                )*)*
            };
        }
    };
}

cases! { $
    range {
        Shared a_key_that_is_not_there_is_an_empty_answer,
        Shared a_value_comes_back_as_it_was_written,
        Shared a_read_sees_every_write_that_was_acknowledged,
        Shared a_key_keeps_its_creation_while_it_is_updated,
        Shared a_key_that_was_deleted_comes_to_be_anew,
        Shared keys_below_come_in_the_order_of_their_bytes,
        Shared below_is_on_whole_segments,
        Shared keys_alone_come_without_values,
        Shared a_stale_read_is_an_answer,
        Shared pages_are_of_one_revision,
        Shared modified_keys_come_with_the_count_of_all,
        Shared a_past_revision_is_read_as_it_was,
        Shared a_revision_that_never_was_is_no_answer,
        Alone a_revision_that_is_lost_is_no_answer,
        Alone more_than_one_answer_holds_is_still_one_read,
    }
    compare {
        Shared every_condition_holds_exactly_when_it_should,
        Shared all_conditions_must_hold,
        Shared conditions_on_another_key,
        Shared conditions_on_all_keys_below,
        Shared conditions_that_are_about_one_key_alone,
        Shared of_many_who_create_one_key_one_succeeds,
        Shared of_many_who_swap_one_value_one_succeeds,
    }
    commit {
        Shared a_conflict_performs_the_other_list,
        Shared operations_of_one_transaction_have_one_revision,
        Shared a_transaction_is_all_or_nothing,
        Shared operations_see_what_those_before_them_did,
        Shared a_put_gives_what_was_there_if_it_is_asked,
        Shared a_delete_counts_and_gives_what_was_there,
        Shared a_delete_of_nothing_changes_nothing,
        Shared a_delete_below_takes_whole_segments,
        Shared what_changes_nothing_has_the_stores_revision,
        Shared two_writes_of_one_key_are_refused,
        Shared every_change_has_a_larger_revision,
    }
    newest {
        Shared the_newest_keys_come_newest_first,
        Shared the_newest_keys_tell_their_leases,
        Shared the_newest_keys_before_a_revision_came_to_be_before_it,
        Shared the_newest_keys_are_those_after_the_operations_before,
        Shared keys_of_one_transaction_are_as_new_as_each_other,
        Shared the_newest_of_no_keys_are_none,
        Shared at_least_one_of_the_newest_keys_is_asked_for,
    }
    limits {
        Shared too_many_operations_are_refused,
        Shared as_many_operations_as_it_says_are_done,
        Shared a_value_that_is_too_large_is_refused,
        Alone a_large_value_comes_back,
        Shared bytes_that_are_no_text,
        Shared an_empty_value_is_a_value,
    }
    names {
        Shared odd_values_come_back_and_compare,
        Shared odd_keys_are_keys,
        Shared a_hidden_name_is_a_key,
        Shared a_long_key_is_a_key_or_refused,
        Shared data_cannot_leave_its_segment,
        Shared keys_that_are_no_paths_are_taken_byte_for_byte,
    }
    lease {
        Shared a_key_expires_and_not_before_its_time,
        Shared a_put_without_expiry_takes_the_old_one_away,
        Shared a_lease_grants_what_was_asked_or_more,
        Shared a_grant_of_a_name_that_exists_is_refused,
        Shared a_lease_that_is_kept_alive_keeps_its_keys,
        Shared a_lease_that_is_not_kept_alive_takes_its_keys,
        Shared a_revoked_lease_takes_its_keys,
        Shared a_key_belongs_to_the_lease_it_was_written_with_last,
        Shared a_lease_that_is_not_there_is_lost,
    }
    watch {
        Shared a_watch_after_a_list_yields_what_comes_after,
        Shared a_watch_from_the_past_yields_what_came_since,
        Shared a_watch_of_the_newest_revision_yields_only_what_is_new,
        Shared a_watch_of_one_key_is_of_that_key,
        Shared a_watch_below_is_on_whole_segments,
        Shared a_transaction_is_one_batch_in_its_order,
        Shared a_large_transaction_is_one_batch,
        Shared a_delete_is_an_event,
        Shared a_delete_of_all_keys_below_reaches_every_watch_in_it,
        Shared an_expired_key_is_a_delete,
        Shared a_put_of_the_same_value_is_an_event,
        Shared every_watch_gets_everything,
        Shared watches_that_were_dropped_leave_the_others_alone,
        Shared a_live_watch_yields_all_after_what_it_skipped,
        Shared a_live_watch_has_no_gap_among_many_writes,
        Shared a_watch_from_the_future_says_that_the_store_is_behind,
        Alone a_live_watch_of_a_store_at_rest_skips_nothing,
        Alone a_watch_from_before_everything_yields_all_of_it,
        Alone a_watch_of_lost_history_says_so,
        Alone a_delete_is_not_lost_with_the_history,
        Alone an_idle_watch_outlives_the_history,
        Alone a_reader_that_does_not_keep_up_delays_nobody,
    }
    directory {
        Shared a_key_may_have_keys_below_it_or_is_refused,
        Shared a_directory_is_made_and_listed,
        Shared a_directory_that_is_there_is_not_made_again,
        Shared an_empty_directory_is_removed,
        Shared a_directory_expires_with_all_in_it,
        Shared a_directory_gets_another_time_to_live,
        Shared a_directory_is_no_value_and_a_value_no_directory,
    }
    server {
        Shared the_capabilities_agree_with_each_other,
        Shared the_status_is_of_this_store,
        Shared there_are_members,
        Shared statistics_are_there_or_refused,
    }
}

/// Runs one case, on a runtime of its own as in a test.
fn run<S: TestStore>(
    name: &str,
    isolation: Isolation,
    setup: impl AsyncFnOnce(Isolation) -> S,
    case: impl for<'a> FnOnce(&'a Bench<'a>) -> BoxFuture<'a, ()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("a runtime: {error}"),
    };
    runtime.block_on(async {
        let subject = setup(isolation).await;
        let bench = Bench::new(&subject, name);
        if tokio::time::timeout(CASE_LIMIT, case(&bench)).await.is_err() {
            panic!("{name} did not finish within {CASE_LIMIT:?}: it waits for something that does not come");
        }
    });
}
