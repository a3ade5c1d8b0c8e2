//! The conformance suite: one case for each rule of the [`Store`] contract. All stores run the same
//! cases.
//!
//! [`conformance!`](crate::conformance) generates a test for each case; a store cannot leave a case
//! out. The store's [`Capabilities`](crate::store::Capabilities) declare what the store cannot do,
//! and the suite then asserts that the store refuses such operations as the contract says.
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

// This file runs the cases. Each file below has the cases about one subject.

mod bench;
mod between;
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

/// The time limit of a case. Only a failing case takes this long, usually because it waits for an
/// event that does not come.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// A store under test.
pub trait TestStore: Send + Sync {
    /// Returns the store.
    fn store(&self) -> &dyn Store;

    /// Makes the store lose its history: a watch that resumes from an earlier revision no longer
    /// gets the changes before now. On etcd v3, compact at the newest revision; on v2, write
    /// another key a thousand times. The stored values stay.
    fn lose_history(&self) -> BoxFuture<'_, ()>;
}

/// Whether a case can share its store with other cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Other cases may use the store at the same time, in other directories. The store keeps its
    /// history meanwhile.
    Shared,
    /// No other case may use the store, since the case makes the store lose its history, or writes
    /// very much.
    Alone,
}

/// Generates a public function for each case, and the macro that generates the tests, from one list
/// of cases.
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
                /// Panics if the store breaks the contract.
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
        Shared missing_key_reads_as_empty,
        Shared value_reads_back_unchanged,
        Shared read_sees_acknowledged_writes,
        Shared update_keeps_creation_revision,
        Shared recreated_key_has_new_creation,
        Shared listing_is_in_byte_order,
        Shared listing_matches_whole_segments,
        Shared keys_only_read_has_no_values,
        Shared stale_read_is_answered,
        Shared pages_share_one_revision,
        Shared modified_read_counts_all_keys,
        Shared past_revision_reads_unchanged,
        Shared future_revision_is_refused,
        Alone lost_revision_is_refused,
        Alone large_read_is_one_snapshot,
    }
    compare {
        Shared every_condition_holds_when_it_should,
        Shared all_conditions_must_hold,
        Shared condition_on_another_key_guards_write,
        Shared condition_on_directory_covers_all_keys,
        Shared single_key_conditions_refuse_directories,
        Shared one_of_many_concurrent_creates_succeeds,
        Shared one_of_many_concurrent_swaps_succeeds,
    }
    commit {
        Shared failed_condition_performs_other_list,
        Shared transaction_has_one_revision,
        Shared transaction_is_all_or_nothing,
        Shared operations_see_earlier_operations,
        Shared put_returns_previous_value_if_asked,
        Shared delete_returns_count_and_previous,
        Shared deleting_missing_key_changes_nothing,
        Shared directory_delete_matches_whole_segments,
        Shared no_change_returns_current_revision,
        Shared two_writes_of_one_key_are_refused,
        Shared every_change_has_larger_revision,
    }
    between {
        Shared range_contains_keys_from_start_to_before_end,
        Shared empty_span_is_refused,
        Shared order_decides_which_keys_limit_cuts_off,
        Shared count_ignores_limit,
        Shared page_sees_earlier_operations,
        Shared comparisons_follow_order_of_operands,
        Shared range_is_guarded_deleted_and_watched_as_a_whole,
    }
    newest {
        Shared newest_keys_come_newest_first,
        Shared newest_keys_show_their_leases,
        Shared newest_before_revision_excludes_later_keys,
        Shared newest_keys_include_earlier_operations,
        Shared keys_of_one_transaction_are_equally_new,
        Shared newest_of_empty_directory_is_empty,
        Shared newest_with_zero_limit_is_refused,
    }
    limits {
        Shared too_many_operations_are_refused,
        Shared declared_number_of_operations_succeeds,
        Shared too_large_value_is_refused,
        Alone large_value_reads_back,
        Shared binary_value_reads_back_or_is_refused,
        Shared empty_value_is_a_value,
    }
    names {
        Shared odd_values_read_back_and_compare,
        Shared odd_keys_are_keys,
        Shared hidden_name_is_a_key,
        Shared long_key_works_or_is_refused,
        Shared map_keys_cannot_escape_their_segment,
        Shared non_path_keys_are_kept_byte_for_byte,
    }
    lease {
        Shared key_expires_not_before_its_time,
        Shared put_without_expiry_removes_expiry,
        Shared lease_grants_at_least_requested_time,
        Shared granting_existing_lease_is_refused,
        Shared renewed_lease_keeps_its_keys,
        Shared expired_lease_deletes_its_keys,
        Shared revoked_lease_deletes_its_keys,
        Shared key_belongs_to_lease_of_last_write,
        Shared missing_lease_is_lost,
    }
    watch {
        Shared watch_after_list_yields_later_changes,
        Shared watch_from_past_yields_changes_since,
        Shared watch_from_newest_yields_only_new_changes,
        Shared key_watch_ignores_other_keys,
        Shared directory_watch_matches_whole_segments,
        Shared transaction_is_one_ordered_batch,
        Shared large_transaction_is_one_batch,
        Shared delete_is_an_event,
        Shared directory_delete_reaches_every_watch,
        Shared expired_key_is_a_delete_event,
        Shared put_of_same_value_is_an_event,
        Shared every_watch_gets_all_changes,
        Shared dropped_watch_does_not_affect_others,
        Shared live_watch_yields_all_after_skip,
        Shared live_watch_has_no_gap_under_writes,
        Shared future_watch_reports_store_behind,
        Alone live_watch_of_idle_store_skips_nothing,
        Alone watch_from_zero_yields_everything,
        Alone watch_of_lost_history_reports_it,
        Alone delete_at_compaction_is_not_lost,
        Alone idle_watch_survives_compaction,
        Alone slow_reader_does_not_delay_others,
    }
    directory {
        Shared key_below_a_key_works_or_is_refused,
        Shared created_directory_is_listed,
        Shared creating_existing_directory_is_refused,
        Shared empty_directory_is_removed,
        Shared directory_expires_with_its_contents,
        Shared directory_ttl_can_be_changed,
        Shared directories_and_values_are_not_mixed,
    }
    server {
        Shared capabilities_are_consistent,
        Shared status_describes_this_store,
        Shared members_are_listed,
        Shared statistics_work_or_are_refused,
    }
}

/// Runs one case on a new runtime.
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
