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
    pub(super) submits_only: bool,
    /// How long to submit; absent: until all executions are.
    pub(super) lasts: Option<Duration>,
    pub(super) executions: u64,
}

/// An execution that was accepted.
pub(super) struct Answered {
    pub(super) id: String,
    /// Of one that has ended: whether it completed.
    pub(super) completed: Option<bool>,
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
    /// When the call of this number is due, at once in a closed loop; `None` when there is none any more.
    pub(super) fn due(&self, number: u64, begun: Instant) -> Option<Instant> {
        let first = number.saturating_mul(u64::from(self.batch));
        if first >= self.executions {
            return None;
        }
        let due = match self.rate {
            Some(rate) => begun + Duration::from_secs_f64(first as f64 / rate),
            None => Instant::now(),
        };
        self.lasts.is_none_or(|lasts| due < begun + lasts).then_some(due)
    }

    /// Sends a call.
    pub(super) async fn call(&self, client: &Client, number: u64) -> Result<Vec<Answered>, ClientError> {
        let first = number * u64::from(self.batch);
        if self.batch == 1 {
            let answer =
                client.submit(&self.request(first), None, self.wait.then_some(WAIT)).await?.execution;
            let completed = match answer.status.as_str() {
                "completed" => Some(true),
                "failed" | "cancelled" => Some(false),
                _ => None,
            };
            return Ok(vec![Answered { id: answer.id, completed }]);
        }
        let many = (first..self.executions).take(self.batch as usize);
        let request = BatchRequest { executions: many.map(|number| self.request(number)).collect() };
        let answer = client.submit_batch(&request).await?;
        Ok(answer.executions.into_iter().map(|item| Answered { id: item.id, completed: None }).collect())
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
    fn calls_are_due_at_their_rate_and_within_time_and_number() {
        let plan = |rate, batch, lasts_ms: Option<u64>, executions| Plan {
            engine_type: None,
            engine: None,
            workflow: String::new(),
            parameters: RawValue::NULL.to_owned(),
            priorities: Vec::new(),
            connections: 1,
            rate,
            batch,
            wait: false,
            submits_only: false,
            lasts: lasts_ms.map(Duration::from_millis),
            executions,
        };
        let begun = Instant::now();
        let at = |plan: &Plan, number| plan.due(number, begun).map(|due| (due - begun).as_millis());
        // Rate, batch, time in ms, executions; the number of a call, and when it is due, in ms.
        type Row = (f64, u32, Option<u64>, u64, u64, Option<u128>);
        let table: [Row; 7] = [
            (100.0, 1, Some(1_000), u64::MAX, 0, Some(0)),
            (100.0, 1, Some(1_000), u64::MAX, 99, Some(990)),
            (100.0, 1, Some(1_000), u64::MAX, 100, None),
            (100.0, 10, Some(1_000), u64::MAX, 3, Some(300)),
            (100.0, 10, None, 35, 3, Some(300)),
            (100.0, 10, None, 30, 3, None),
            (100.0, 1, None, u64::MAX, 1_000, Some(10_000)),
        ];
        for (rate, batch, lasts, executions, number, due) in table {
            assert_eq!(
                at(&plan(Some(rate), batch, lasts, executions), number),
                due,
                "call {number} at {rate}"
            );
        }
        let closed = plan(None, 1, Some(60_000), 2);
        assert_eq!((closed.due(1, begun).is_some(), closed.due(2, begun).is_some()), (true, false));
        assert!(plan(None, 1, Some(0), 2).due(0, begun).is_none());
    }

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
