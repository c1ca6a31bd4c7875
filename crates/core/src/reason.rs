//! Why an execution went back to the queue, or what lies behind its end. Events carry it as a word.

use crate::failure::FailureKind;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Reason {
    /// The worker ended, or was not heard of for as long as its lease lasts.
    WorkerLost,
    /// The node of the worker died.
    NodeDied,
    /// The node stops, or the worker drains.
    NodeStopped,
    /// A worker elsewhere gave it back.
    HandedBack,
    /// The worker could not renew its lease and let go of the run.
    LetGo,
    /// The worker's report could not be stored.
    StoreUnavailable,
    /// The engine refused the request before it took anything.
    Refused,
    /// The engine could not be asked about a run that it has.
    Unreachable,
    /// The answer to the request was lost, and a repeated request is recognised.
    AnswerLost,
    /// An operator changed its priority.
    Priority,
    /// The attempt failed with this kind, and the execution had to end with another one.
    Attempt(FailureKind),
    /// A word of a worker elsewhere, or of a newer version of the service.
    Other(String),
}

impl Reason {
    const WORDS: [(Reason, &'static str); 10] = [
        (Reason::WorkerLost, "worker_lost"),
        (Reason::NodeDied, "node_died"),
        (Reason::NodeStopped, "node_stopped"),
        (Reason::HandedBack, "handed_back"),
        (Reason::LetGo, "let_go"),
        (Reason::StoreUnavailable, "store_unavailable"),
        (Reason::Refused, "refused"),
        (Reason::Unreachable, "unreachable"),
        (Reason::AnswerLost, "answer_lost"),
        (Reason::Priority, "priority"),
    ];

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Reason::Attempt(kind) => kind.as_str(),
            Reason::Other(word) => word,
            own => Reason::WORDS.iter().find(|(reason, _)| reason == own).map_or("", |(_, word)| *word),
        }
    }
}

impl From<String> for Reason {
    fn from(word: String) -> Reason {
        if let Some((reason, _)) = Reason::WORDS.into_iter().find(|(_, own)| *own == word) {
            return reason;
        }
        FailureKind::parse(&word).map_or(Reason::Other(word), Reason::Attempt)
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> String {
        reason.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_stored_as_its_word() {
        let own = Reason::WORDS.into_iter().map(|(reason, word)| (reason, word.to_owned()));
        let kinds =
            FailureKind::ALL.into_iter().map(|kind| (Reason::Attempt(kind), kind.as_str().to_owned()));
        let other = [(Reason::Other("tired".to_owned()), "tired".to_owned())];
        for (reason, word) in own.chain(kinds).chain(other) {
            assert!(!word.is_empty());
            let text = serde_json::to_string(&reason).expect("it is written");
            assert_eq!(text, format!("{word:?}"));
            assert_eq!(serde_json::from_str::<Reason>(&text).expect("it is read"), reason);
        }
    }
}
