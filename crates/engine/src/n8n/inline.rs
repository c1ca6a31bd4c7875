//! Workflows that come with a request: copied into n8n and activated once per content, under a path no one can guess.

use super::workflow::{N8nMode, N8nWebhook};
use super::{N8n, lock, not_started};
use crate::client::answer_text;
use crate::contract::{Call, EngineFailure, Reached};
use aws_lc_rs::digest;
use enginehouse_core::failure::FailureKind;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::Instant;

const WEBHOOK: &str = "n8n-nodes-base.webhook";
const RESPOND: &str = "n8n-nodes-base.respondToWebhook";
/// Answers at once with the execution's id.
const TELL_ID: &str = "={{ JSON.stringify({ executionId: $execution.id }) }}";
/// An activation takes effect some time after its answer.
const ACTIVE_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What n8n may add to a definition when it gives it back.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Copies that were not used for this long are deleted.
const UNUSED_DAYS: u64 = 7;
/// Workflows looked through for them.
const LISTED: &str = "250";

/// A definition, ready to be copied.
#[derive(Debug)]
pub(super) struct Copy {
    /// Of the definition as it was sent.
    hash: String,
    nodes: Vec<Value>,
    connections: Value,
    settings: Map<String, Value>,
    label: String,
    mode: N8nMode,
}

#[derive(Debug, Deserialize)]
struct Workflows {
    data: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    id: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Created {
    id: String,
}

impl Copy {
    /// Takes an exported workflow: an object with `nodes` and `connections` that begins with one webhook.
    pub(super) fn read(definition: &[u8], name: Option<&str>) -> Result<Copy, EngineFailure> {
        let refuse = |message: String| {
            EngineFailure::new(FailureKind::InvalidRequest, "invalid_definition", message)
                .with_reached(Reached::No)
        };
        let mut fields: Map<String, Value> = serde_json::from_slice(definition)
            .map_err(|error| refuse(format!("the definition is not a JSON object: {error}")))?;
        let Some(Value::Array(nodes)) = fields.remove("nodes") else {
            return Err(refuse("the definition has no list `nodes`".to_owned()));
        };
        let of_type = |kind: &str| nodes.iter().filter(|node| node["type"] == kind).count();
        if of_type(WEBHOOK) != 1 {
            return Err(refuse(format!(
                "the definition must have one Webhook node, and has {}",
                of_type(WEBHOOK)
            )));
        }
        // A node that answers by itself leaves no room for an answer with the id.
        let mode = if of_type(RESPOND) > 0 { N8nMode::Lookup } else { N8nMode::Track };
        let connections = match fields.remove("connections") {
            Some(connections @ Value::Object(_)) => connections,
            _ => return Err(refuse("the definition has no object `connections`".to_owned())),
        };
        let settings = match fields.remove("settings") {
            Some(Value::Object(settings)) => settings,
            _ => Map::new(),
        };
        let hash = digest::digest(&digest::SHA256, definition);
        let hash: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let label: String = name.unwrap_or("inline").chars().filter(|c| !c.is_control()).take(80).collect();
        Ok(Copy { hash, nodes, connections, settings, label, mode })
    }

    /// What the workflow is called in n8n: found by it again.
    fn name(&self) -> String {
        format!("{} (enginehouse {})", self.label, self.hash)
    }

    /// The workflow as it is created, with its webhook at `path`.
    fn body(&self, path: &str) -> Value {
        let mut nodes = self.nodes.clone();
        for node in nodes.iter_mut().filter(|node| node["type"] == WEBHOOK) {
            node["webhookId"] = json!(path);
            let respond = self.mode == N8nMode::Lookup;
            node["parameters"] = json!({
                "httpMethod": "POST",
                "path": path,
                "responseMode": if respond { "responseNode" } else { "onReceived" },
                "options": if respond { json!({}) } else { json!({"responseData": TELL_ID}) },
            });
        }
        let mut settings = self.settings.clone();
        // Without these the execution could be neither found nor its result be read.
        for name in ["saveDataSuccessExecution", "saveDataErrorExecution"] {
            settings.insert(name.to_owned(), json!("all"));
        }
        settings.insert("saveExecutionProgress".to_owned(), json!(true));
        json!({"name": self.name(), "nodes": nodes, "connections": self.connections, "settings": settings})
    }

    fn webhook(&self, path: &str) -> N8nWebhook {
        N8nWebhook { path: path.to_owned(), mode: self.mode, headers: Vec::new() }
    }
}

impl N8n {
    pub(super) fn inline_allowed(&self) -> Result<(), EngineFailure> {
        if self.config.allow_inline {
            return Ok(());
        }
        let message = "this engine takes no workflow definitions (allow_inline)";
        Err(EngineFailure::new(FailureKind::InvalidRequest, "inline_not_allowed", message)
            .with_reached(Reached::No))
    }

    /// The id of the copy of a definition, and how it is called; made if it is not there.
    pub(super) async fn copy_of(
        &self,
        call: &Call,
        definition: &[u8],
    ) -> Result<(String, N8nWebhook), EngineFailure> {
        self.inline_allowed()?;
        let copy = Copy::read(definition, call.workflow_name.as_deref())?;
        let fact = self.fact(call, &copy)?;
        let _one = self.copying.lock().await;
        let known = call.host.recall(&fact).await.and_then(|text| Kept::parse(&text));
        if let Some(kept) = known
            && self.is_there(call, &kept.id).await?
        {
            if kept.day != today() {
                call.host.remember(&fact, &Kept { day: today(), ..kept.clone() }.to_string()).await;
            }
            return Ok((kept.id, copy.webhook(&kept.path)));
        }
        let path = unguessable()?;
        let id = self.create(call, &copy, &path).await?;
        self.activate(call, &id, &path).await?;
        let kept = Kept { id, path, day: today() };
        call.host.remember(&fact, &kept.to_string()).await;
        // A new copy is rare, and the moment to see which old ones no one uses any more.
        if let Err(failure) = self.remove_unused(call).await {
            tracing::warn!(code = failure.code, "old copies of workflows could not be looked for in n8n");
        }
        Ok((kept.id, copy.webhook(&kept.path)))
    }

    /// Deletes copies of ours that were not used for a week. What another service copied is not ours to delete.
    async fn remove_unused(&self, call: &Call) -> Result<(), EngineFailure> {
        let url = self.api(call.endpoint, &["workflows"])?;
        let request = self.client.get(url).query("limit", LISTED).body_bytes_max(ANSWER_BYTES_MAX);
        let answer = self.ask(request).await?;
        if !answer.is_success() {
            return Err(self.refusal(&answer));
        }
        for workflow in answer.json::<Workflows>()?.data {
            let Some(hash) = hash_in(&workflow.name) else { continue };
            let fact = self.fact_of(call.endpoint, hash)?;
            let kept = call.host.recall(&fact).await.and_then(|text| Kept::parse(&text));
            let unused = kept.is_some_and(|kept| kept.id == workflow.id && kept.day + UNUSED_DAYS <= today());
            if unused {
                let url = self.api(call.endpoint, &["workflows", &workflow.id])?;
                let request = self.client.request(Method::DELETE, url).body_bytes_max(ANSWER_BYTES_MAX);
                let answer = self.ask(request).await?;
                if answer.is_success() || answer.status == 404 {
                    call.host.remember(&fact, "").await;
                }
            }
        }
        Ok(())
    }

    /// Whether a copy is still in n8n and active; someone may have removed it.
    async fn is_there(&self, call: &Call, id: &str) -> Result<bool, EngineFailure> {
        match self.describe(call.endpoint, id).await {
            Ok(described) => Ok(described.active),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn create(&self, call: &Call, copy: &Copy, path: &str) -> Result<String, EngineFailure> {
        let limit = self.client.transfer_timeout();
        let request = self.client.post(self.api(call.endpoint, &["workflows"])?, copy.body(path).to_string());
        let answer = self
            .ask(request.within(limit, limit).body_bytes_max(ANSWER_BYTES_MAX))
            .await
            .map_err(not_started)?;
        if answer.is_success() {
            return answer.json::<Created>().map(|created| created.id).map_err(not_started);
        }
        let refusal = self.refusal(&answer);
        // n8n says by 400 what it does not like about a definition.
        if answer.status == 400 {
            return Err(EngineFailure { code: "invalid_definition".to_owned(), ..refusal });
        }
        Err(refusal)
    }

    async fn activate(&self, call: &Call, id: &str, path: &str) -> Result<(), EngineFailure> {
        let url = self.api(call.endpoint, &["workflows", id, "activate"])?;
        let request = self.client.request(Method::POST, url).body_bytes_max(ANSWER_BYTES_MAX);
        let answer = self.ask(request).await.map_err(not_started)?;
        if !answer.is_success() {
            let refusal = self.refusal(&answer);
            let code =
                if answer.status == 400 { "invalid_definition".to_owned() } else { refusal.code.clone() };
            return Err(EngineFailure { code, ..refusal });
        }
        let since = Instant::now();
        while since.elapsed() < ACTIVE_WITHIN {
            // A GET runs nothing, and its refusal tells whether the POST is registered.
            let probe = self.client.get(self.webhook(call.endpoint, path)?).anonymous();
            let answer = self.client.send(probe).await.map_err(not_started)?;
            if answer_text(&answer.body).contains("POST request") {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        *lock(&self.unsettled) = Instant::now();
        let message = "n8n has activated the copy of the workflow, but not registered its webhook yet";
        Err(EngineFailure::new(FailureKind::Unavailable, "webhook_not_ready", message))
    }

    /// The name of the fact that an endpoint has a copy.
    fn fact(&self, call: &Call, copy: &Copy) -> Result<String, EngineFailure> {
        self.fact_of(call.endpoint, &copy.hash)
    }

    fn fact_of(&self, endpoint: usize, content: &str) -> Result<String, EngineFailure> {
        let endpoint = self.client.endpoint(endpoint)?;
        let hash = digest::digest(&digest::SHA256, endpoint.as_str().as_bytes());
        let place: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("n8n/{place}/{content}"))
    }
}

/// What is remembered of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    id: String,
    path: String,
    /// When it was used last, in days since 1970.
    day: u64,
}

impl Kept {
    fn parse(text: &str) -> Option<Kept> {
        let mut words = text.split(' ');
        let (id, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Kept { id, path, day: words.next()?.parse().ok()? })
    }
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.id, self.path, self.day)
    }
}

fn today() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() / 86_400)
}

/// The content in the name of a copy.
fn hash_in(name: &str) -> Option<&str> {
    let (_, rest) = name.rsplit_once("(enginehouse ")?;
    rest.strip_suffix(')').filter(|hash| hash.len() == 32)
}

/// A path of 128 random bits.
fn unguessable() -> Result<String, EngineFailure> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| {
        let failure =
            EngineFailure::new(FailureKind::Unavailable, "no_random", "the system gives no random numbers");
        failure.with_reached(Reached::No)
    })?;
    Ok(bytes.iter().fold("enginehouse-".to_owned(), |path, byte| format!("{path}{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(extra: &Value) -> Vec<u8> {
        let hook =
            json!({"name": "In", "type": WEBHOOK, "parameters": {"path": "guessed", "httpMethod": "GET"}});
        let mut nodes = vec![hook];
        nodes.extend(extra.as_array().cloned().unwrap_or_default());
        json!({"name": "x", "nodes": nodes, "connections": {}, "settings": {"executionOrder": "v1"}})
            .to_string()
            .into()
    }

    #[test]
    fn a_copy_has_a_path_of_its_own_and_keeps_what_is_needed() {
        let copy = Copy::read(&definition(&json!([])), Some("orders")).unwrap();
        let body = copy.body("secret-path");
        let parameters = &body["nodes"][0]["parameters"];
        assert_eq!((&parameters["path"], &parameters["httpMethod"]), (&json!("secret-path"), &json!("POST")));
        assert_eq!(parameters["options"]["responseData"], TELL_ID);
        assert_eq!(body["settings"]["executionOrder"], "v1");
        assert_eq!(body["settings"]["saveDataErrorExecution"], "all");
        assert!(body["name"].as_str().unwrap().starts_with("orders (enginehouse "), "{}", body["name"]);
    }

    #[test]
    fn a_workflow_that_answers_by_itself_is_looked_up() {
        let copy = Copy::read(&definition(&json!([{"type": RESPOND}])), None).unwrap();
        assert_eq!(copy.mode, N8nMode::Lookup);
        assert_eq!(copy.body("p")["nodes"][0]["parameters"]["responseMode"], "responseNode");
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for (text, part) in [
            ("[]", "not a JSON object"),
            ("{}", "no list `nodes`"),
            ("{\"nodes\":[]}", "has 0"),
            ("{\"nodes\":[{\"type\":\"n8n-nodes-base.webhook\"}]}", "connections"),
        ] {
            let failure = Copy::read(text.as_bytes(), None).unwrap_err();
            assert_eq!((failure.kind, failure.reached), (FailureKind::InvalidRequest, Reached::No));
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }
}
