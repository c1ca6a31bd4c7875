//! Callers that may not know what became of a submit and send it again: with the same id or key, to any node.

use enginehouse_api::{ApiError, Code, SubmitRequest};
use enginehouse_runtime::{Caller, Service, Submitted};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// How long a caller waits for an answer: its node may be dead.
const PATIENCE: Duration = Duration::from_secs(5);

struct Sent {
    request: SubmitRequest,
    key: Option<String>,
    /// The ids that it was given, which must all be the same.
    given: BTreeSet<String>,
}

#[derive(Default)]
pub(crate) struct Callers {
    sent: Vec<Sent>,
    wrong: Vec<String>,
}

impl Callers {
    pub(crate) async fn submit(
        &mut self,
        service: &Service,
        request: SubmitRequest,
        key: Option<String>,
        acknowledged: &mut Vec<String>,
    ) {
        self.sent.push(Sent { request, key, given: BTreeSet::new() });
        self.send(service, self.sent.len() - 1, acknowledged).await;
    }

    /// Sends an earlier submit once more, or another one under its name.
    pub(crate) async fn repeat(
        &mut self,
        service: &Service,
        random: &mut StdRng,
        acknowledged: &mut Vec<String>,
    ) {
        if self.sent.is_empty() {
            return;
        }
        let at = random.random_range(0..self.sent.len());
        if self.sent[at].given.is_empty() || random.random_bool(0.8) {
            self.send(service, at, acknowledged).await;
            return;
        }
        let Sent { request, key, .. } = &self.sent[at];
        let other = RawValue::from_string("\"something else\"".to_owned()).expect("valid");
        let request = SubmitRequest { parameters: Some(other), ..request.clone() };
        let answer = timeout(PATIENCE, service.submit(&Caller::local(), request, key.clone())).await;
        if let Ok(Ok(taken)) = answer {
            let id = taken.execution.id;
            self.wrong.push(format!("I6 {id}: another request was taken for the one that has its name"));
        }
    }

    async fn send(&mut self, service: &Service, at: usize, acknowledged: &mut Vec<String>) {
        let sent = &mut self.sent[at];
        let caller = Caller::local();
        let submit = service.submit(&caller, sent.request.clone(), sent.key.clone());
        let Ok(answer) = timeout(PATIENCE, submit).await else { return };
        match answer {
            Ok(Submitted { execution, .. }) => {
                if sent.given.insert(execution.id.clone()) && sent.key.is_none() {
                    acknowledged.push(execution.id);
                }
            }
            Err(ApiError { code: Code::IdConflict, detail, .. }) => {
                self.wrong.push(format!("I6 the same request conflicts with itself: {detail}"));
            }
            Err(_) => {}
        }
    }

    /// What callers were told that must not be, and what they were promised that is not there.
    pub(crate) async fn violations(&self, service: &Service) -> Vec<String> {
        let mut found = self.wrong.clone();
        for sent in &self.sent {
            if sent.given.len() > 1 {
                found.push(format!("I6 one submit was given the ids {:?}", sent.given));
            }
            for id in sent.given.iter().filter(|_| sent.key.is_some()) {
                if let Err(error) = service.get(&Caller::local(), id).await {
                    found.push(format!("I1 {id}: acknowledged and not there: {}", error.detail));
                }
            }
        }
        found
    }
}
