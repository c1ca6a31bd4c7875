//! Closed lists of words that travel as plain strings: they exist for the OpenAPI document only, so that a reader and
//! a generated client see every word that can occur.

use enginehouse_core::execution::{Priority, Status};
use enginehouse_core::failure::FailureKind;
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The schema written as JSON; the caller is a constant of this crate, so a wrong one fails the first test.
pub(crate) fn schema(json: Value) -> RefOr<Schema> {
    serde_json::from_value(json).expect("a schema written in this crate is valid")
}

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident = $words:expr;)*) => { $(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl $name {
            /// Every word of the list.
            #[must_use]
            pub fn words() -> Vec<&'static str> {
                $words
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let description = concat!($($doc),+).trim();
                schema(json!({"type": "string", "description": description, "enum": $name::words()}))
            }
        }

        impl ToSchema for $name {}
    )* };
}

words! {
    /// Where an execution stands.
    StatusWord = Status::ALL.into_iter().map(Status::as_str).collect();
    /// What kind of failure ended an attempt or an execution.
    FailureKindWord = FailureKind::ALL.into_iter().map(FailureKind::as_str).collect();
    /// A priority by name, from least to most important.
    PriorityWord = Priority::ALL.into_iter().map(Priority::as_str).collect();
    /// Why a pending execution is not running yet.
    WaitReasonWord = vec![
        "scheduled", "backoff", "conflict", "retry_budget", "parked", "engine_limit", "concurrency_key", "rate_limit",
        "fair_share", "paused", "no_capable_worker", "scaling_up", "behind",
    ];
    /// What stands in the way of a start: a running execution, an endpoint, the engine, or the workers' slots.
    BlockerWord = vec!["execution", "endpoint", "engine", "slots"];
    /// How an attempt ended.
    OutcomeWord = vec!["succeeded", "failed", "cancelled", "lost", "interrupted", "refused"];
    /// How bad an alert is.
    SeverityWord = vec!["warning", "critical"];
    /// Whether an alert fires, or its condition does not hold for long enough yet.
    AlertStateWord = vec!["pending", "firing"];
    /// Whether a webhook is tried again.
    DeliveryStateWord = vec!["waiting", "dead"];
    /// What a look at something found.
    VerdictWord = vec!["ok", "warning", "failed"];
    /// What a worker is doing.
    WorkerStatusWord = vec!["starting", "idle", "busy", "overloaded", "unhealthy", "draining", "offline"];
    /// What an endpoint's circuit breaker does.
    BreakerStateWord = vec!["closed", "open", "half_open"];
    /// What was learned about how much an endpoint can do at once.
    LimitModeWord = vec!["open", "cut", "hold", "external"];
    /// Why as many calls at once are in force at an endpoint as are: `configured`; `experiment`: it is slow, and fewer are tried
    /// out; `slower_with_more`: with fewer it was faster; `too_many_requests`: it answered so; `slow_anyway`: no limit, because
    /// fewer were not faster.
    LimitWhyWord = vec!["configured", "experiment", "slower_with_more", "too_many_requests", "slow_anyway"];
    /// What a worker is to do.
    OrderWord = vec!["run", "cancel", "let_go", "hand_back"];
    /// How an attempt ended on its worker.
    WorkerEndWord = vec!["succeeded", "failed", "cancelled", "interrupted"];
    /// Whether a failed call reached the engine.
    ReachedWord = vec!["no", "maybe", "yes"];
    /// Which time limit ends an attempt.
    LimitCodeWord = vec!["attempt_timeout", "total_timeout"];
    /// What an API key may do.
    ScopeWord =
        vec!["submit", "submit:inline", "read", "read:payload", "cancel", "worker", "metrics", "admin"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_has_a_schema() {
        for (schema, words) in [
            (StatusWord::schema(), StatusWord::words()),
            (FailureKindWord::schema(), FailureKindWord::words()),
            (PriorityWord::schema(), PriorityWord::words()),
            (WaitReasonWord::schema(), WaitReasonWord::words()),
            (BlockerWord::schema(), BlockerWord::words()),
            (OutcomeWord::schema(), OutcomeWord::words()),
            (WorkerStatusWord::schema(), WorkerStatusWord::words()),
            (ScopeWord::schema(), ScopeWord::words()),
        ] {
            let json = serde_json::to_value(schema).expect("a schema is JSON");
            assert_eq!(json["enum"], json!(words));
        }
    }
}
