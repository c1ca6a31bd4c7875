//! Durable events: one per transition, numbered 1..n per execution, written in the transition's own transaction.

use crate::failure::Failure;
use crate::reason::Reason;
use crate::time::{Millis, Time};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    ExecutionSubmitted,
    /// Its time came: it stands in the ready queue.
    ExecutionReady,
    ExecutionStarted,
    /// The engine's own run id is known.
    ExecutionAttached,
    ExecutionRetrying,
    ExecutionInterrupted,
    ExecutionCancelRequested,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionCancelled,
    ExecutionRedriven,
    /// A stale worker's result was refused and is kept as this.
    LateResult,
    OperatorAction,
}

/// The types of durable events that are about the service itself, and belong to no execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// An alert began to fire, or ended.
    Alert,
    BreakerClosed,
    BreakerHalfOpen,
    BreakerOpened,
    /// An operator paused or resumed an engine, or forced a circuit breaker.
    EngineOperated,
    /// A change of the number of workers came to its end.
    ScalingCompleted,
    /// An operator changed the rules of the auto-scaler.
    ScalingOperated,
    WorkerFailed,
    /// An operator drained a worker.
    WorkerOperated,
    WorkerStarted,
    WorkerStopped,
    /// Of a newer version of the service, and read back from its store.
    #[serde(other)]
    Unknown,
}

impl NoteKind {
    /// Those that this version writes.
    pub const ALL: [NoteKind; 11] = [
        NoteKind::Alert,
        NoteKind::BreakerClosed,
        NoteKind::BreakerHalfOpen,
        NoteKind::BreakerOpened,
        NoteKind::EngineOperated,
        NoteKind::ScalingCompleted,
        NoteKind::ScalingOperated,
        NoteKind::WorkerFailed,
        NoteKind::WorkerOperated,
        NoteKind::WorkerStarted,
        NoteKind::WorkerStopped,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NoteKind::Alert => "alert",
            NoteKind::BreakerClosed => "breaker_closed",
            NoteKind::BreakerHalfOpen => "breaker_half_open",
            NoteKind::BreakerOpened => "breaker_opened",
            NoteKind::EngineOperated => "engine_operated",
            NoteKind::ScalingCompleted => "scaling_completed",
            NoteKind::ScalingOperated => "scaling_operated",
            NoteKind::WorkerFailed => "worker_failed",
            NoteKind::WorkerOperated => "worker_operated",
            NoteKind::WorkerStarted => "worker_started",
            NoteKind::WorkerStopped => "worker_stopped",
            NoteKind::Unknown => "unknown",
        }
    }
}

/// The types of all durable events, in the order of their names.
#[must_use]
pub fn event_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = EventType::ALL.into_iter().map(EventType::as_str).collect();
    names.extend(NoteKind::ALL.into_iter().map(NoteKind::as_str));
    names.sort_unstable();
    names
}

impl EventType {
    pub const ALL: [EventType; 13] = [
        EventType::ExecutionSubmitted,
        EventType::ExecutionReady,
        EventType::ExecutionStarted,
        EventType::ExecutionAttached,
        EventType::ExecutionRetrying,
        EventType::ExecutionInterrupted,
        EventType::ExecutionCancelRequested,
        EventType::ExecutionCompleted,
        EventType::ExecutionFailed,
        EventType::ExecutionCancelled,
        EventType::ExecutionRedriven,
        EventType::LateResult,
        EventType::OperatorAction,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::ExecutionSubmitted => "execution_submitted",
            EventType::ExecutionReady => "execution_ready",
            EventType::ExecutionStarted => "execution_started",
            EventType::ExecutionAttached => "execution_attached",
            EventType::ExecutionRetrying => "execution_retrying",
            EventType::ExecutionInterrupted => "execution_interrupted",
            EventType::ExecutionCancelRequested => "execution_cancel_requested",
            EventType::ExecutionCompleted => "execution_completed",
            EventType::ExecutionFailed => "execution_failed",
            EventType::ExecutionCancelled => "execution_cancelled",
            EventType::ExecutionRedriven => "execution_redriven",
            EventType::LateResult => "late_result",
            EventType::OperatorAction => "operator_action",
        }
    }

    /// Ends a generation.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            EventType::ExecutionCompleted | EventType::ExecutionFailed | EventType::ExecutionCancelled
        )
    }
}

/// One numbered event of one execution. It carries no payload: what a workflow got or gave is never in an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// 1..n without gaps per execution.
    pub seq: u32,
    #[serde(rename = "type")]
    pub kind: EventType,
    pub at: Time,
    pub attempt: u32,
    #[serde(flatten)]
    pub data: EventData,
}

/// What an event says beside its type; absent fields do not apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EventData {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_run: Option<String>,
    /// The attempt takes up a run the engine already has.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reattach: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When the next attempt may begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,
    /// How long the engine asked to be left alone, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Millis>,
    /// It ended without the engine's word on its run, which may still be going there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
    /// The end of an execution whose caller wants to be told of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub callback: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Which API key asked for it, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_note_is_stored_as_its_word() {
        for kind in NoteKind::ALL {
            let text = serde_json::to_string(&kind).expect("it is written");
            assert_eq!(text, format!("{:?}", kind.as_str()));
            assert_eq!(serde_json::from_str::<NoteKind>(&text).expect("it is read"), kind);
        }
        assert_eq!(
            serde_json::from_str::<NoteKind>("\"of_tomorrow\"").expect("it is read"),
            NoteKind::Unknown
        );
        assert!(event_names().windows(2).all(|pair| pair[0] < pair[1]));
    }
}
