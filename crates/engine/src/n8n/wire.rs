//! What n8n's public API answers, and how it is read.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A status that ends an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Error,
    Crashed,
    Canceled,
}

impl End {
    /// `None` while it goes on; an unknown word counts so, because the attempt's timeout ends it in any case.
    pub(super) fn of(status: &str) -> Option<End> {
        match status {
            "success" => Some(End::Success),
            "error" => Some(End::Error),
            "crashed" => Some(End::Crashed),
            "canceled" => Some(End::Canceled),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Readiness {
    pub(super) status: String,
}

/// An execution without its data.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    #[serde(deserialize_with = "text_or_number")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) status: String,
}

/// A page of executions.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) data: Vec<Listed>,
    #[serde(default, rename = "nextCursor")]
    pub(super) next_cursor: Option<String>,
}

/// An execution with its data.
#[derive(Debug, Deserialize)]
pub(super) struct Ended {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    result_data: Option<ResultData>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultData {
    #[serde(default)]
    run_data: BTreeMap<String, Vec<NodeRun>>,
    #[serde(default)]
    last_node_executed: Option<String>,
    #[serde(default)]
    error: Option<ErrorData>,
}

#[derive(Debug, Deserialize)]
struct NodeRun {
    #[serde(default)]
    data: Option<Outputs>,
}

#[derive(Debug, Deserialize)]
struct Outputs {
    #[serde(default)]
    main: Vec<Option<Vec<Item>>>,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(default)]
    json: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct ErrorData {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    description: Option<String>,
}

impl Ended {
    fn result_data(&self) -> Option<&ResultData> {
        self.data.as_ref()?.result_data.as_ref()
    }

    /// Whether it says what its nodes gave, which every success does.
    pub(super) fn has_data(&self) -> bool {
        self.result_data().is_some()
    }

    /// The items of the last node's first output that has any, as an array of their `json`.
    pub(super) fn result(&self) -> String {
        let items = self.result_data().and_then(|data| {
            let run = data.run_data.get(data.last_node_executed.as_ref()?)?.last()?;
            run.data.as_ref()?.main.iter().flatten().find(|items| !items.is_empty())
        });
        let mut text = String::from("[");
        for (index, item) in items.into_iter().flatten().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(item.json.as_ref().map_or("null", |json| json.get()));
        }
        text.push(']');
        text
    }

    /// What the workflow's error says.
    pub(super) fn error(&self) -> Option<String> {
        let error = self.result_data()?.error.as_ref()?;
        let parts: Vec<&str> = [&error.message, &error.description]
            .into_iter()
            .filter_map(|part| part.as_deref().map(str::trim).filter(|part| !part.is_empty()))
            .collect();
        if parts.is_empty() { error.name.clone() } else { Some(parts.join(": ")) }
    }

    /// Whether the time limit of the workflow ended it, which n8n also calls cancelled.
    pub(super) fn timed_out(&self) -> bool {
        let name = self.result_data().and_then(|data| data.error.as_ref()?.name.as_deref());
        name.is_some_and(|name| name.starts_with("Timeout"))
    }

    /// The value of a header the execution was called with; `Err` when the webhook's data is not there (yet).
    pub(super) fn called_with(&self, header: &str) -> Result<Option<String>, NoData> {
        #[derive(Deserialize)]
        struct Webhook {
            headers: BTreeMap<String, serde_json::Value>,
        }
        let data = self.result_data().ok_or(NoData)?;
        let firsts = data.run_data.values().filter_map(|runs| {
            let item = runs.first()?.data.as_ref()?.main.iter().flatten().flatten().next()?;
            serde_json::from_str::<Webhook>(item.json.as_ref()?.get()).ok()
        });
        let mut seen = false;
        for webhook in firsts {
            seen = true;
            if let Some(value) = webhook.headers.get(header).and_then(serde_json::Value::as_str) {
                return Ok(Some(value.to_owned()));
            }
        }
        if seen { Ok(None) } else { Err(NoData) }
    }
}

/// An execution that shows nothing of what it was called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoData;

/// The execution's id in the answer of a webhook.
pub(super) fn execution_id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Told {
        #[serde(rename = "executionId", deserialize_with = "text_or_number")]
        id: String,
    }
    let told: Told = crate::client::parse(body.trim_ascii()).ok()?;
    is_id(&told.id).then_some(told.id)
}

/// Ids are numbers in n8n, and must stay one segment of a path in any case.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        _ => Err(serde::de::Error::custom("neither text nor a number")),
    }
}

/// Whether a run failed because n8n had no task runner for it, which says nothing of its workflow.
pub(super) fn is_runner_missing(message: &str) -> bool {
    message.starts_with("Task request timed out") && message.contains("not matched to a runner")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(result_data: &str) -> Ended {
        serde_json::from_str(&format!("{{\"id\":1,\"data\":{{\"resultData\":{result_data}}}}}")).unwrap()
    }

    #[test]
    fn the_result_is_the_items_of_the_last_node() {
        let node = |main: &str| {
            format!(
                "{{\"lastNodeExecuted\":\"B\",\"runData\":{{\"A\":[],\"B\":[{{\"data\":{{\"main\":{main}}}}}]}}}}"
            )
        };
        for (main, result) in [
            (r#"[[{"json":{"a":1.0}},{"json":{"b" : 2}}]]"#, r#"[{"a":1.0},{"b" : 2}]"#),
            (r#"[[],[{"json":{"false":"branch"}}]]"#, r#"[{"false":"branch"}]"#),
            (r#"[null,[{"json":1}]]"#, "[1]"),
            ("[]", "[]"),
        ] {
            assert_eq!(ended(&node(main)).result(), result);
        }
        assert_eq!(ended("{\"runData\":{}}").result(), "[]");
    }

    #[test]
    fn a_missing_task_runner_is_not_the_workflow_s_fault() {
        let said = "Task request timed out: Your Code node task was not matched to a runner within the timeout period \
                    (waited 0 seconds). This indicates that the task runner is currently down, or not ready";
        assert!(is_runner_missing(said));
        assert!(!is_runner_missing("Task request timed out"));
        assert!(!is_runner_missing("my own text: not matched to a runner"));
    }

    #[test]
    fn errors_say_what_happened() {
        let error = ended(r#"{"error":{"name":"Error","message":"boom","description":" why "}}"#);
        assert_eq!(error.error().as_deref(), Some("boom: why"));
        assert!(!error.timed_out());
        assert!(ended(r#"{"error":{"name":"TimeoutExecutionCancelledError"}}"#).timed_out());
        assert_eq!(ended("{}").error(), None);
    }

    #[test]
    fn an_execution_shows_what_it_was_called_with() {
        let with = |json: &str| {
            ended(&format!(
                "{{\"runData\":{{\"Hook\":[{{\"data\":{{\"main\":[[{{\"json\":{json}}}]]}}}}]}}}}"
            ))
        };
        let key = "x-execution-key";
        assert_eq!(
            with(r#"{"headers":{"x-execution-key":"e.1"}}"#).called_with(key),
            Ok(Some("e.1".to_owned()))
        );
        assert_eq!(with(r#"{"headers":{}}"#).called_with(key), Ok(None));
        assert_eq!(with("{}").called_with(key), Err(NoData));
        assert_eq!(ended("{}").called_with(key), Err(NoData));
    }

    #[test]
    fn an_id_is_found_in_an_answer() {
        for (body, id) in [
            ("{\"executionId\":\"17\"}", Some("17")),
            (" {\"executionId\":17} ", Some("17")),
            ("{\"executionId\":\"../x\"}", None),
            ("{\"message\":\"Workflow was started\"}", None),
            ("", None),
        ] {
            assert_eq!(execution_id(body.as_bytes()).as_deref(), id, "{body}");
        }
    }
}
