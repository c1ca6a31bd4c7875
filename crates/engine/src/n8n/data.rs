//! The data of an execution: what its nodes gave, why it failed, and what it was called with.

use super::N8nFiles;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The name under which an item's files stand beside what it says itself.
const FILES: &str = "$files";

/// An execution with its data. What is not read is not looked at either, so that no version's extras disturb.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Execution {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    result_data: Option<ResultData>,
    /// What is still to run, and in an execution that runs, what it was called with.
    #[serde(default)]
    execution_data: Option<ExecutionData>,
    #[serde(default)]
    redaction_info: Option<RedactionInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultData {
    #[serde(default)]
    run_data: Option<BTreeMap<String, Vec<NodeRun>>>,
    #[serde(default)]
    last_node_executed: Option<String>,
    #[serde(default)]
    error: Option<Value>,
    /// In the place of `error`, where n8n hides what executions say.
    #[serde(default)]
    redacted_error: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecutionData {
    #[serde(default)]
    node_execution_stack: Option<Vec<NodeRun>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedactionInfo {
    #[serde(default)]
    is_redacted: bool,
}

#[derive(Debug, Deserialize)]
struct NodeRun {
    #[serde(default)]
    data: Option<Outputs>,
}

#[derive(Debug, Deserialize)]
struct Outputs {
    #[serde(default)]
    main: Option<Vec<Option<Vec<Item>>>>,
}

impl Outputs {
    /// The items of all outputs, in their order.
    fn items(&self) -> impl Iterator<Item = &Item> {
        self.main.iter().flatten().flatten().flatten()
    }
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(default)]
    json: Option<Box<RawValue>>,
    #[serde(default)]
    binary: Option<BTreeMap<String, File>>,
}

/// A file of an item. n8n keeps its bytes here, or elsewhere under an id.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    file_name: Option<String>,
    #[serde(default)]
    mime_type: Option<String>,
    #[serde(default)]
    file_size: Option<Value>,
    #[serde(default)]
    bytes: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    data: Option<String>,
}

impl File {
    fn told(&self, files: N8nFiles) -> Value {
        let size = self.bytes.map(Value::from).or_else(|| self.file_size.clone());
        let mut told = serde_json::json!({ "name": self.file_name, "type": self.mime_type, "size": size });
        if files == N8nFiles::Base64 {
            // Beside an id stands only where n8n keeps the bytes.
            let data = self.data.as_ref().filter(|_| self.id.is_none());
            told["data"] = data.cloned().map_or(Value::Null, Value::from);
        }
        told
    }
}

impl Execution {
    fn result_data(&self) -> Option<&ResultData> {
        self.data.as_ref()?.result_data.as_ref()
    }

    /// Whether it says what its nodes gave, which every success does.
    pub(super) fn has_data(&self) -> bool {
        self.result_data().is_some()
    }

    /// Whether n8n hides what its nodes gave.
    pub(super) fn is_redacted(&self) -> bool {
        self.data.as_ref().and_then(|data| data.redaction_info.as_ref()).is_some_and(|info| info.is_redacted)
    }

    /// The items of the last node that ran, of all its outputs, as an array of their `json`. The files of an item stand in
    /// it under `$files`.
    pub(super) fn result(&self, files: N8nFiles) -> String {
        let outputs = self.result_data().and_then(|data| {
            let run = data.run_data.as_ref()?.get(data.last_node_executed.as_ref()?)?.last()?;
            run.data.as_ref()
        });
        let mut text = String::from("[");
        for item in outputs.iter().flat_map(|outputs| outputs.items()) {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&item_text(item, files));
        }
        text.push(']');
        text
    }

    /// What the workflow's error says.
    pub(super) fn error(&self) -> Option<String> {
        let data = self.result_data()?;
        match (&data.error, &data.redacted_error) {
            (Some(error), _) => error_words(error),
            (None, Some(hidden)) => {
                let kind = hidden.get("type").and_then(Value::as_str).unwrap_or("an error");
                Some(format!("{kind} (n8n hides what it says: its redaction of execution data is on)"))
            }
            (None, None) => None,
        }
    }

    /// Whether the time limit of the workflow ended it, which n8n also calls cancelled.
    pub(super) fn timed_out(&self) -> bool {
        let error = self.result_data().and_then(|data| data.error.as_ref().or(data.redacted_error.as_ref()));
        let name = error.and_then(|error| error.get("name").or_else(|| error.get("type"))?.as_str());
        name.is_some_and(|name| name.starts_with("Timeout"))
    }

    /// The value of a header the execution was called with; `Err` when nothing shows what it was called with (yet).
    pub(super) fn called_with(&self, header: &str) -> Result<Option<String>, NoData> {
        #[derive(Deserialize)]
        struct Webhook {
            headers: BTreeMap<String, Value>,
        }
        let data = self.data.as_ref().ok_or(NoData)?;
        let ran = data.result_data.iter().flat_map(|data| data.run_data.iter().flatten());
        let ran = ran.filter_map(|(_, runs)| runs.first());
        // Before the first node has run, n8n shows its input only among what is to run.
        let to_run = data.execution_data.iter().flat_map(|data| data.node_execution_stack.iter().flatten());
        let firsts = ran.chain(to_run).filter_map(|run| {
            let item = run.data.as_ref()?.items().next()?;
            serde_json::from_str::<Webhook>(item.json.as_ref()?.get()).ok()
        });
        let mut seen = false;
        for webhook in firsts {
            seen = true;
            if let Some(value) = webhook.headers.get(header).and_then(Value::as_str) {
                return Ok(Some(value.to_owned()));
            }
        }
        if seen { Ok(None) } else { Err(NoData) }
    }
}

/// An execution that shows nothing of what it was called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoData;

fn item_text(item: &Item, files: N8nFiles) -> String {
    let json = item.json.as_ref().map_or("null", |json| json.get());
    let Some(binary) = item.binary.as_ref().filter(|binary| !binary.is_empty()) else {
        return json.to_owned();
    };
    let told: serde_json::Map<String, Value> =
        binary.iter().map(|(name, file)| (name.clone(), file.told(files))).collect();
    let told = format!("\"{FILES}\":{}", Value::Object(told));
    // What the item says itself stays as n8n wrote it, number by number.
    match json.trim_end().strip_suffix('}') {
        Some(open) if open.trim() == "{" => format!("{{{told}}}"),
        Some(open) => format!("{open},{told}}}"),
        None => format!("{{\"json\":{json},{told}}}"),
    }
}

/// An error in words: n8n's own are objects, but a node may throw anything.
fn error_words(error: &Value) -> Option<String> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.trim().to_owned()),
        other => Some(other.to_string()),
    };
    let Value::Object(fields) = error else { return text(error) };
    let parts: Vec<String> = ["message", "description"]
        .iter()
        .filter_map(|name| text(fields.get(*name)?))
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() { fields.get("name").and_then(text) } else { Some(parts.join(": ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution(data: &str) -> Execution {
        serde_json::from_str(&format!("{{\"id\":1,\"data\":{data}}}")).unwrap()
    }

    fn ended(result_data: &str) -> Execution {
        execution(&format!("{{\"resultData\":{result_data}}}"))
    }

    fn node(main: &str) -> Execution {
        ended(&format!(
            "{{\"lastNodeExecuted\":\"B\",\"runData\":{{\"A\":[],\"B\":[{{\"data\":{{\"main\":{main}}}}}]}}}}"
        ))
    }

    #[test]
    fn the_result_is_the_items_of_the_last_node_of_all_its_outputs() {
        for (main, result) in [
            (r#"[[{"json":{"a":1.0}},{"json":{"b" : 2}}]]"#, r#"[{"a":1.0},{"b" : 2}]"#),
            (r#"[[],[{"json":{"false":"branch"}}]]"#, r#"[{"false":"branch"}]"#),
            (r#"[[{"json":{"n":9007199254740993}}],[{"json":2}]]"#, r#"[{"n":9007199254740993},2]"#),
            (r#"[null,[{"json":1}]]"#, "[1]"),
            (r#"[[{}]]"#, "[null]"),
            ("[]", "[]"),
            ("null", "[]"),
        ] {
            assert_eq!(node(main).result(N8nFiles::Metadata), result);
        }
        assert_eq!(ended("{\"runData\":{}}").result(N8nFiles::Metadata), "[]");
        assert_eq!(ended("{\"runData\":null}").result(N8nFiles::Metadata), "[]");
    }

    #[test]
    fn files_stand_beside_what_an_item_says() {
        let inline =
            r#"{"f":{"fileName":"a.txt","mimeType":"text/plain","fileSize":"2 B","bytes":2,"data":"aGk="}}"#;
        let stored =
            r#"{"f":{"fileName":"b","mimeType":"x/y","data":"filesystem-v2","id":"filesystem-v2:1"}}"#;
        let (meta, bytes) = (N8nFiles::Metadata, N8nFiles::Base64);
        let told =
            |data: &str| format!(r#""$files":{{"f":{{"name":"a.txt","type":"text/plain","size":2{data}}}}}"#);
        for (json, binary, files, result) in [
            (r#"{"n":1.50}"#, inline, meta, format!("[{{\"n\":1.50,{}}}]", told(""))),
            ("{ }", inline, meta, format!("[{{{}}}]", told(""))),
            ("7", inline, meta, format!("[{{\"json\":7,{}}}]", told(""))),
            ("7", "{}", meta, "[7]".to_owned()),
            (
                "{}",
                stored,
                bytes,
                r#"[{"$files":{"f":{"name":"b","type":"x/y","size":null,"data":null}}}]"#.to_owned(),
            ),
        ] {
            let found = node(&format!("[[{{\"json\":{json},\"binary\":{binary}}}]]")).result(files);
            let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(same(&found), same(&result), "{found}");
        }
        let with_bytes = node(&format!("[[{{\"json\":{{}},\"binary\":{inline}}}]]")).result(bytes);
        assert!(with_bytes.contains("\"data\":\"aGk=\""), "{with_bytes}");
    }

    #[test]
    fn errors_say_what_happened_whatever_was_thrown() {
        for (error, words) in [
            (r#"{"name":"Error","message":"boom","description":" why "}"#, Some("boom: why")),
            (r#"{"message":{"code":17}}"#, Some(r#"{"code":17}"#)),
            (r#"{"name":"NodeError","message":"","description":null}"#, Some("NodeError")),
            (r#""thrown text""#, Some("thrown text")),
            (r#"[1,2]"#, Some("[1,2]")),
            ("null", None),
        ] {
            assert_eq!(ended(&format!("{{\"error\":{error}}}")).error().as_deref(), words, "{error}");
        }
        assert!(ended(r#"{"error":{"name":"TimeoutExecutionCancelledError"}}"#).timed_out());
        assert!(ended(r#"{"redactedError":{"type":"TimeoutExecutionCancelledError"}}"#).timed_out());
        assert!(!ended(r#"{"error":{"name":"Error"}}"#).timed_out());
        let hidden = ended(r#"{"redactedError":{"type":"NodeApiError"}}"#).error().unwrap();
        assert!(hidden.starts_with("NodeApiError (n8n hides"), "{hidden}");
    }

    #[test]
    fn hidden_data_is_known_as_such() {
        assert!(execution(r#"{"redactionInfo":{"isRedacted":true},"resultData":{}}"#).is_redacted());
        assert!(!execution(r#"{"redactionInfo":{"isRedacted":false}}"#).is_redacted());
        assert!(!ended("{}").is_redacted());
    }

    #[test]
    fn an_execution_shows_what_it_was_called_with() {
        let item = |json: &str| format!("{{\"data\":{{\"main\":[[{{\"json\":{json}}}]]}}}}");
        let ran = |json: &str| ended(&format!("{{\"runData\":{{\"Hook\":[{}]}}}}", item(json)));
        let to_run = |json: &str| {
            execution(&format!(
                "{{\"resultData\":{{\"runData\":{{}}}},\"executionData\":{{\"nodeExecutionStack\":[{}]}}}}",
                item(json)
            ))
        };
        let key = "x-execution-key";
        for with in [
            ran(r#"{"headers":{"x-execution-key":"e.1"}}"#),
            to_run(r#"{"headers":{"x-execution-key":"e.1"}}"#),
        ] {
            assert_eq!(with.called_with(key), Ok(Some("e.1".to_owned())));
        }
        assert_eq!(ran(r#"{"headers":{}}"#).called_with(key), Ok(None));
        assert_eq!(ran("{}").called_with(key), Err(NoData));
        assert_eq!(ended("{}").called_with(key), Err(NoData));
    }
}
