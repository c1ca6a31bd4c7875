//! One suite for every driver: each case tries sentences of the contract. A driver joins by one line at the end of this file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test cannot go on without may end it")]

mod changes;
mod commits;
mod dump;
mod harness;
mod model;
mod reads;
mod removals;
mod submits;

/// Every case on every driver.
macro_rules! conformance {
    ($($driver:ident: $open:expr;)*) => { $(
        mod $driver {
            use crate::harness::Harness;

            conformance!(@cases $open;
                submits: a_submit_is_there_with_everything_it_brought, the_same_request_is_the_same_execution,
                    an_idempotency_key_names_one_execution, a_conflict_refuses_the_whole_group,
                    a_submit_may_be_granted_at_once;
                changes: a_transition_needs_the_row_s_rev, the_scheduler_s_writes_need_its_epoch,
                    a_refused_change_takes_later_ones_of_its_row_along, a_grant_behind_a_refused_change_is_held, payloads_come_with_a_transition,
                    a_long_history_is_folded, totals_follow_every_transition;
                commits: refused_writes_leave_the_others, sessions_are_opened_renewed_and_closed,
                    a_role_passes_on_when_its_time_is_over, documents_change_by_their_rev,
                    the_feed_tells_every_change_in_order, what_was_committed_is_there_after_a_restart,
                    a_closed_store_answers_so, two_commits_at_once_both_stand,
                    a_commit_with_nothing_to_tell_has_no_place_in_the_feed;
                reads: due_work_is_found_by_lane_and_rank, work_not_yet_due_is_found_by_its_time,
                    what_starts_is_read_with_its_request_if_that_is_small_enough,
                    running_rows_are_found_by_their_holder, lists_filter_and_page, a_sound_store_has_no_findings;
                removals: ended_rows_are_listed_by_key, what_is_removed_leaves_nothing_behind,
                    free_room_is_given_back;
            );
        }
    )* };
    (@cases $open:expr; $($room:ident: $($case:ident),+;)+) => { $( $(
        #[tokio::test]
        async fn $case() {
            let mut harness = Harness::new($open);
            crate::$room::$case(&mut harness).await;
        }
    )+ )+ };
}

conformance! {
    memory: crate::harness::memory();
    sqlite: crate::harness::sqlite();
}
