//! A service as a whole in a few lines of text: every execution, what waits, the engines, the slots and the workers.
//!
//! A test that says what the whole looks like sees what it did not think of. Times are left out, and ids that the service made
//! are numbered, so that the same state has the same picture.

use crate::house::House;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(120);
/// Executions in a picture.
const EXECUTIONS_MAX: usize = 100;

impl House {
    /// One line for each execution, then the queue, each endpoint, the slots and the workers.
    pub(crate) fn picture(&self) -> String {
        let listed = self.must("GET", &format!("/v1/executions?limit={EXECUTIONS_MAX}"), None);
        assert!(listed["nextCursor"].is_null(), "more executions than fit into a picture");
        let mut lines = Vec::new();
        for (at, view) in list(&listed["executions"]).iter().rev().enumerate() {
            let whole = self.must("GET", &format!("/v1/executions/{}", text(&view["id"])), None);
            lines.push(execution(at, &whole));
        }
        let queue = self.must("GET", "/v1/queue", None);
        let mut line = format!("queue: {} waiting", queue["currentQueueSize"]);
        for (reason, count) in queue["byWaitReason"].as_object().expect("reasons") {
            line += &format!(", {count} {reason}");
        }
        lines.push(line);
        for engine in list(&self.must("GET", "/v1/engines", None)["engines"]) {
            lines.extend(endpoints(engine));
        }
        let workers = self.must("GET", "/v1/workers", None);
        let slots = &workers["slots"];
        lines.push(format!("slots: {} in use, {} leased", slots["inUse"], slots["leases"]));
        let mut by_status: BTreeMap<&str, usize> = BTreeMap::new();
        list(&workers["workers"]).iter().for_each(|w| *by_status.entry(text(&w["status"])).or_default() += 1);
        let counts: Vec<String> =
            by_status.iter().map(|(status, count)| format!("{count} {status}")).collect();
        lines.push(format!("workers: {}", counts.join(", ")));
        lines.join("\n")
    }

    /// Waits until the service looks like `wanted`, whose lines may be indented, and every role does its work.
    pub(crate) fn becomes(&self, wanted: &str) {
        let lines: Vec<&str> = wanted.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let wanted = lines.join("\n");
        let deadline = Instant::now() + WITHIN;
        loop {
            let seen = self.picture();
            if seen == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "it stays:\n{seen}\nand not:\n{wanted}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        let roles = self.must("GET", "/v1/doctor", None)["roles"].clone();
        let failed: Vec<&Value> = list(&roles).iter().filter(|role| role["failedRounds"] != 0).collect();
        assert!(!list(&roles).is_empty() && failed.is_empty(), "{failed:?}");
    }
}

fn execution(at: usize, view: &Value) -> String {
    // Ids that callers choose are shown.
    let id = text(&view["id"]);
    let id = if id.len() == 36 && id.matches('-').count() == 4 { format!("#{at}") } else { id.to_owned() };
    let mut line = format!("{id}: {}, attempt {}", text(&view["status"]), view["attempt"]);
    if let Some(reason) = view["wait"]["reason"].as_str() {
        line += &format!(", waits for {reason}");
    }
    if view["failure"].is_object() {
        line += &format!(", {} {}", text(&view["failure"]["kind"]), text(&view["failure"]["code"]));
    }
    if view["abandoned"] == true {
        line += ", abandoned";
    }
    line
}

fn endpoints(engine: &Value) -> Vec<String> {
    let paused = if engine["paused"] == true { ", paused" } else { "" };
    let line = |(at, endpoint): (usize, &Value)| {
        let breaker = &endpoint["breaker"];
        let forced = if breaker["forced"].is_object() { " (forced)" } else { "" };
        let state = text(&breaker["state"]);
        format!("{}[{at}]: {state}{forced}, {} running{paused}", text(&engine["name"]), endpoint["running"])
    };
    list(&engine["endpoints"]).iter().enumerate().map(line).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
