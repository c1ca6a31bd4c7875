//! Who asks, and what they may do.

use enginehouse_core::id::SessionId;
use std::fmt;

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Submit, batch, replay, redrive.
    Submit,
    /// Carry workflow definitions inline.
    SubmitInline,
    /// Status, lists, events.
    Read,
    /// Request, result, logs, failure texts.
    ReadPayload,
    Cancel,
    /// The worker protocol.
    Worker,
    Metrics,
    /// Everything.
    Admin,
}

impl Scope {
    pub const ALL: [Scope; 8] = [
        Scope::Submit,
        Scope::SubmitInline,
        Scope::Read,
        Scope::ReadPayload,
        Scope::Cancel,
        Scope::Worker,
        Scope::Metrics,
        Scope::Admin,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Submit => "submit",
            Scope::SubmitInline => "submit:inline",
            Scope::Read => "read",
            Scope::ReadPayload => "read:payload",
            Scope::Cancel => "cancel",
            Scope::Worker => "worker",
            Scope::Metrics => "metrics",
            Scope::Admin => "admin",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Scope> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The API key's id; `None` for the process itself and under `--no-auth`.
    pub key_id: Option<String>,
    pub scopes: Vec<Scope>,
    /// What it submits belongs to this user, whatever the request says.
    pub user: Option<String>,
    /// It is this worker's process, and may speak for no other worker.
    pub worker: Option<SessionId>,
}

impl Caller {
    /// The process itself: may do everything.
    #[must_use]
    pub fn local() -> Caller {
        Caller { key_id: None, scopes: vec![Scope::Admin], user: None, worker: None }
    }

    /// Someone without a key, who may do nothing that asks for one.
    #[must_use]
    pub fn anonymous() -> Caller {
        Caller { key_id: None, scopes: Vec::new(), user: None, worker: None }
    }

    /// The process of a worker.
    #[must_use]
    pub fn worker(session: SessionId) -> Caller {
        Caller { key_id: None, scopes: vec![Scope::Worker], user: None, worker: Some(session) }
    }

    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}
