//! What is sent, and when.

use super::super::Failure;
use super::super::executions::parse_priority;
use enginehouse_api::client::{Client, ClientError};
use enginehouse_api::{BatchRequest, PriorityName, SubmitRequest};
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::Instant;

/// How long a call with `--wait` is left open.
const WAIT: Duration = Duration::from_secs(60);
/// The largest share of one priority.
const SHARE_MAX: u32 = 1_000;

/// One measurement.
pub(super) struct Plan {
    pub(super) engine_type: Option<String>,
    pub(super) engine: Option<String>,
    pub(super) workflow: String,
    pub(super) parameters: Box<RawValue>,
    /// One entry for each part of the whole.
    pub(super) priorities: Vec<PriorityName>,
    pub(super) connections: u32,
    /// Executions a second.
    pub(super) rate: Option<f64>,
    pub(super) batch: u32,
    pub(super) wait: bool,
    pub(super) lasts: Duration,
    pub(super) executions: u64,
}

/// `HIGH:2 NORMAL` as HIGH, HIGH, NORMAL.
pub(super) fn priorities(given: &[String]) -> Result<Vec<PriorityName>, Failure> {
    let mut all = Vec::new();
    for text in given {
        let (name, share) = text.split_once(':').unwrap_or((text, "1"));
        let priority =
            parse_priority(name).map_err(|error| Failure::usage(format!("--priority {text}: {error}")))?;
        let share = share.parse::<u32>().ok().filter(|share| (1..=SHARE_MAX).contains(share));
        let share = share.ok_or_else(|| {
            Failure::usage(format!("--priority {text}: the share is a number of 1 to {SHARE_MAX}"))
        })?;
        all.extend(std::iter::repeat_n(priority, share as usize));
    }
    Ok(all)
}

impl Plan {
    /// When the call of this number is due; `None` when there is none any more.
    pub(super) fn due(&self, number: u64, begun: Instant) -> Option<Instant> {
        let first = number.saturating_mul(u64::from(self.batch));
        if first >= self.executions {
            return None;
        }
        match self.rate {
            Some(rate) => {
                let after = Duration::from_secs_f64(first as f64 / rate);
                (after < self.lasts).then(|| begun + after)
            }
            None => (begun.elapsed() < self.lasts).then_some(begun),
        }
    }

    /// Sends a call; the ids of its executions, with the status of each that has ended.
    pub(super) async fn call(
        &self,
        client: &Client,
        number: u64,
    ) -> Result<Vec<(String, Option<String>)>, ClientError> {
        let first = number * u64::from(self.batch);
        if self.batch == 1 {
            let answer =
                client.submit(&self.request(first), None, self.wait.then_some(WAIT)).await?.execution;
            let over = matches!(answer.status.as_str(), "completed" | "failed" | "cancelled");
            return Ok(vec![(answer.id, (self.wait && over).then_some(answer.status))]);
        }
        let many = (first..self.executions).take(self.batch as usize);
        let request = BatchRequest { executions: many.map(|number| self.request(number)).collect() };
        let answer = client.submit_batch(&request).await?;
        Ok(answer.executions.into_iter().map(|item| (item.id, None)).collect())
    }

    fn request(&self, number: u64) -> SubmitRequest {
        let turn = usize::try_from(number).unwrap_or(0).checked_rem(self.priorities.len());
        SubmitRequest {
            engine_type: self.engine_type.clone().filter(|_| self.engine.is_none()),
            engine: self.engine.clone(),
            workflow_id: Some(self.workflow.clone()),
            parameters: Some(self.parameters.clone()),
            priority: turn.and_then(|turn| self.priorities.get(turn).copied()),
            ..SubmitRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_come_in_their_shares() {
        let given = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            priorities(&texts).map_err(|failure| failure.message)
        };
        let high = parse_priority("HIGH").expect("a priority");
        let low = parse_priority("LOW").expect("a priority");
        assert_eq!(given(&["HIGH:2", "LOW"]), Ok(vec![high, high, low]));
        assert_eq!(given(&[]), Ok(vec![]));
        for text in ["URGENT", "HIGH:0", "HIGH:x", "HIGH:1001", ":2"] {
            assert!(given(&[text]).is_err_and(|message| message.contains(text)), "{text}");
        }
    }
}
