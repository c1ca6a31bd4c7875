//! How a workflow is called: as configured, or as its own definition says.

use super::{N8n, is_n8n, lock, not_started};
use crate::contract::{Call, EngineFailure};
use enginehouse_core::failure::FailureKind;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// How long what the API said of a workflow is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
/// Workflows remembered; beyond that all are forgotten and asked for again.
const KNOWN_MAX: usize = 10_000;
/// A definition as the API gives it.
const DEFINITION_BYTES_MAX: usize = 32 << 20;
/// The longest path of a webhook.
const PATH_BYTES_MAX: usize = 512;

/// The webhook of a workflow.
#[derive(Debug, Clone)]
pub struct N8nWebhook {
    /// What follows `/webhook/` in its URL.
    pub path: String,
    pub mode: N8nMode,
    /// What the webhook's own authentication asks for; the values are secrets.
    pub headers: Vec<(String, SecretString)>,
}

/// How a workflow's execution is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum N8nMode {
    /// The webhook answers at once, and its answer holds `executionId`.
    #[default]
    Track,
    /// A node behind it answers first, with `executionId`.
    Ack,
    /// The answer says nothing; the execution is found by the header it was called with.
    Lookup,
}

impl N8nWebhook {
    pub(super) fn check(&self) -> Result<(), String> {
        check_path(&self.path)
    }
}

pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/')
}

pub(super) fn check_path(path: &str) -> Result<(), String> {
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("has more than {PATH_BYTES_MAX} bytes"));
    }
    if segments(path).any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("is not a path of n8n's webhooks, such as orders-hook".to_owned());
    }
    Ok(())
}

/// What the API said of a workflow.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) webhook: N8nWebhook,
    at: Instant,
}

/// A workflow as the API gives it, as far as it is looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Described {
    #[serde(default)]
    pub(super) active: bool,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    settings: Settings,
}

/// Which of its executions a workflow keeps, where it does not leave that to n8n's own defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Settings {
    save_data_success_execution: Value,
    save_data_error_execution: Value,
}

#[derive(Debug, Deserialize)]
struct Node {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    parameters: Value,
}

impl Described {
    /// The first webhook that takes a POST, if it asks for no authentication of its own.
    fn webhook(&self) -> Result<N8nWebhook, &'static str> {
        let hooks = self.nodes.iter().filter(|node| node.kind == "n8n-nodes-base.webhook" && !node.disabled);
        let mut posts = hooks.filter(|node| takes_post(&node.parameters["httpMethod"]));
        let Some(node) = posts.next() else {
            return Err("it begins with no webhook that takes a POST");
        };
        let parameters = &node.parameters;
        if parameters["authentication"].as_str().is_some_and(|how| how != "none") {
            return Err(
                "its webhook asks for authentication; configure workflows.ID with path, mode and headers",
            );
        }
        let path = parameters["path"].as_str().unwrap_or_default();
        let says_id =
            parameters["options"]["responseData"].as_str().is_some_and(|text| text.contains("$execution.id"));
        let mode = match parameters["responseMode"].as_str() {
            None | Some("onReceived") if says_id => N8nMode::Track,
            _ => N8nMode::Lookup,
        };
        let webhook = N8nWebhook { path: path.to_owned(), mode, headers: Vec::new() };
        webhook.check().map_err(|_| "the path of its webhook cannot be called")?;
        Ok(webhook)
    }
}

/// A webhook takes one method, or several.
fn takes_post(method: &Value) -> bool {
    match method {
        Value::Array(methods) => methods.iter().any(|method| method == "POST"),
        method => method == "POST",
    }
}

impl N8n {
    /// How a workflow is called. What is not configured is asked for.
    pub(super) async fn webhook_of(&self, endpoint: usize, id: &str) -> Result<N8nWebhook, EngineFailure> {
        if let Some(webhook) = self.config.workflows.get(id) {
            return Ok(webhook.clone());
        }
        let name = (endpoint, id.to_owned());
        let known = lock(&self.known).get(&name).filter(|known| known.at.elapsed() < BELIEVED_FOR).cloned();
        if let Some(known) = known {
            return Ok(known.webhook);
        }
        let described = self.describe(endpoint, id).await?;
        let webhook = described.webhook().map_err(|why| {
            let message = format!("the workflow {id} cannot be called: {why}");
            EngineFailure::new(FailureKind::InvalidRequest, "workflow_not_callable", message)
        })?;
        if !described.active {
            return Err(inactive(id));
        }
        let mut all = lock(&self.known);
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        all.insert(name, Known { webhook: webhook.clone(), at: Instant::now() });
        Ok(webhook)
    }

    pub(super) async fn describe(&self, endpoint: usize, id: &str) -> Result<Described, EngineFailure> {
        let limit = self.client.transfer_timeout();
        let request = self.client.get(self.api(endpoint, &["workflows", id])?);
        let request = request.within(limit, limit).body_bytes_max(DEFINITION_BYTES_MAX);
        let answer = self.ask(request).await.map_err(not_started)?;
        match answer.status {
            200..300 => answer.json().map_err(not_started),
            404 if is_n8n(&answer) => {
                let message = format!("n8n has no workflow {id}");
                Err(EngineFailure::new(FailureKind::NotFound, "workflow_not_found", message).with_status(404))
            }
            _ => Err(self.refusal(&answer)),
        }
    }

    /// Whether an execution that has ended can be found. Only a workflow that says itself that it keeps none is known not to.
    pub(super) async fn keeps_ends(&self, call: &Call, id: &str) -> bool {
        self.describe(call.endpoint, id).await.map_or(true, |described| {
            let settings = &described.settings;
            settings.save_data_success_execution != "none" && settings.save_data_error_execution != "none"
        })
    }

    /// Why a webhook is not registered: it may be soon, or never.
    pub(super) async fn not_registered(&self, endpoint: usize, id: &str) -> EngineFailure {
        lock(&self.known).remove(&(endpoint, id.to_owned()));
        let described = match self.describe(endpoint, id).await {
            Ok(described) => described,
            Err(failure) => return failure,
        };
        if !described.active {
            return inactive(id);
        }
        if self.is_settling() {
            let message = format!("n8n has not registered the webhook of the workflow {id} yet");
            return EngineFailure::new(FailureKind::Unavailable, "webhook_not_ready", message)
                .with_status(404);
        }
        let message =
            format!("n8n knows the active workflow {id}, but not its webhook; look at workflows.{id}.path");
        EngineFailure::new(FailureKind::NotFound, "webhook_not_found", message).with_status(404)
    }
}

fn inactive(id: &str) -> EngineFailure {
    let message = format!("the workflow {id} is not active in n8n; activate it there");
    EngineFailure::new(FailureKind::NotFound, "workflow_inactive", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn described(parameters: Value) -> Described {
        serde_json::from_value(json!({"active": true, "nodes": [
            {"type": "n8n-nodes-base.set", "parameters": {}},
            {"type": "n8n-nodes-base.webhook", "parameters": parameters},
        ]}))
        .unwrap()
    }

    #[test]
    fn a_definition_says_how_it_is_called() {
        let id = "={{ JSON.stringify({executionId: $execution.id}) }}";
        for (parameters, found) in [
            (
                json!({"httpMethod": "POST", "path": "a", "options": {"responseData": id}}),
                Ok(("a", N8nMode::Track)),
            ),
            (
                json!({"httpMethod": "POST", "path": "a/b", "responseMode": "lastNode"}),
                Ok(("a/b", N8nMode::Lookup)),
            ),
            (
                json!({"httpMethod": "POST", "path": "a", "responseMode": "responseNode"}),
                Ok(("a", N8nMode::Lookup)),
            ),
            (
                json!({"httpMethod": "POST", "path": "a", "responseMode": "onReceived"}),
                Ok(("a", N8nMode::Lookup)),
            ),
            (
                json!({"httpMethod": ["GET", "POST"], "multipleMethods": true, "path": "m", "responseMode": "lastNode"}),
                Ok(("m", N8nMode::Lookup)),
            ),
            (json!({"httpMethod": ["GET"], "path": "m"}), Err("no webhook")),
            (json!({"path": "a"}), Err("no webhook")),
            (
                json!({"httpMethod": "POST", "path": "a", "authentication": "headerAuth"}),
                Err("authentication"),
            ),
            (json!({"httpMethod": "POST", "path": "../a"}), Err("path")),
        ] {
            let webhook = described(parameters.clone()).webhook();
            match (webhook, found) {
                (Ok(webhook), Ok((path, mode))) => {
                    assert_eq!((webhook.path.as_str(), webhook.mode), (path, mode))
                }
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (webhook, found) => panic!("{parameters}: {webhook:?}, wanted {found:?}"),
            }
        }
    }
}
