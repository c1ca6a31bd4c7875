//! Why an attempt failed, and what follows from it by default.

use serde::{Deserialize, Serialize};

/// The closed list of failure kinds; `product.md`'s table is [`FailureKind::retried_by_default`] and
/// [`FailureKind::counts_for_breaker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection, or reset before an answer.
    Connection,
    /// The engine is up but cannot serve (502, 503, 504, not ready, it crashed in the run).
    Unavailable,
    /// 429 or the engine's own busy answer.
    RateLimited,
    /// Something of this execution alone is taken, such as its thread: the engine is well, and has taken nothing.
    Conflict,
    /// The answer was unreadable, truncated or contradictory.
    BadResponse,
    /// The workflow itself failed.
    EngineError,
    /// Cut off by a time limit: codes `attempt_timeout`, `idle_timeout`, `total_timeout`.
    Timeout,
    InvalidRequest,
    Auth,
    NotFound,
    TooLarge,
    /// Never started within `expiresIn`.
    Expired,
    /// Its workers died under it too often.
    Lost,
    /// `atMostOnce` work whose end is not known.
    UnknownOutcome,
}

impl FailureKind {
    pub const ALL: [FailureKind; 14] = [
        FailureKind::Connection,
        FailureKind::Unavailable,
        FailureKind::RateLimited,
        FailureKind::Conflict,
        FailureKind::BadResponse,
        FailureKind::EngineError,
        FailureKind::Timeout,
        FailureKind::InvalidRequest,
        FailureKind::Auth,
        FailureKind::NotFound,
        FailureKind::TooLarge,
        FailureKind::Expired,
        FailureKind::Lost,
        FailureKind::UnknownOutcome,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Connection => "connection",
            FailureKind::Unavailable => "unavailable",
            FailureKind::RateLimited => "rate_limited",
            FailureKind::Conflict => "conflict",
            FailureKind::BadResponse => "bad_response",
            FailureKind::EngineError => "engine_error",
            FailureKind::Timeout => "timeout",
            FailureKind::InvalidRequest => "invalid_request",
            FailureKind::Auth => "auth",
            FailureKind::NotFound => "not_found",
            FailureKind::TooLarge => "too_large",
            FailureKind::Expired => "expired",
            FailureKind::Lost => "lost",
            FailureKind::UnknownOutcome => "unknown_outcome",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<FailureKind> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }

    #[must_use]
    pub fn retried_by_default(self) -> bool {
        use FailureKind::{BadResponse, Conflict, Connection, RateLimited, Unavailable};
        matches!(self, Connection | Unavailable | RateLimited | Conflict | BadResponse)
    }

    /// Says only that the engine cannot be asked now: of a run that is known it says nothing.
    #[must_use]
    pub fn is_out_of_reach(self) -> bool {
        use FailureKind::{Connection, RateLimited, Unavailable};
        matches!(self, Connection | Unavailable | RateLimited)
    }

    /// Ends for good whatever `retry.on` says.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, FailureKind::Expired | FailureKind::Lost | FailureKind::UnknownOutcome)
    }

    /// Says that the *engine* is unwell, not the workflow or the request.
    #[must_use]
    pub fn counts_for_breaker(self) -> bool {
        matches!(self, FailureKind::Connection | FailureKind::Unavailable)
    }
}

/// How an attempt or an execution failed, as it is stored. What the engine said is payload, so it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// A stable word that narrows the kind, such as `attempt_timeout` or `workflow_failed`.
    pub code: String,
    /// The sealed text for people; empty when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex_bytes")]
    pub message: Vec<u8>,
    /// Whether the policy would have tried again had there been attempts left.
    pub retryable: bool,
    pub attempt: u32,
    /// The HTTP status of the engine's answer, or the exit status of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_status: Option<i32>,
}

/// Sealed bytes inside JSON, as hexadecimal text.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Write;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let pair = |at: usize| text.get(at..at + 2).and_then(|p| u8::from_str_radix(p, 16).ok());
        (0..text.len())
            .step_by(2)
            .map(pair)
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}
