//! Flows that come with a request: uploaded once per content, under an id made of the content.

use super::Langflow;
use crate::contract::{Call, EngineFailure, Reached};
use aws_lc_rs::digest;
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A definition, ready for upload.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: String,
    body: Bytes,
}

impl Flow {
    /// Takes an exported flow (`{"data": {"nodes": ...}}`) or its data alone (`{"nodes": ...}`).
    pub(super) fn read(definition: &[u8], name: Option<&str>) -> Result<Flow, EngineFailure> {
        let refuse = |message: String| {
            EngineFailure::new(FailureKind::InvalidRequest, "invalid_definition", message)
                .with_reached(Reached::No)
        };
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(definition)
            .map_err(|error| refuse(format!("the definition is not a JSON object: {error}")))?;
        let data = match fields.get("data") {
            Some(data) if data.get().starts_with('{') => data.get(),
            None if fields.get("nodes").is_some_and(|nodes| nodes.get().starts_with('[')) => {
                std::str::from_utf8(definition).map_err(|error| refuse(error.to_string()))?
            }
            _ => {
                return Err(refuse(
                    "the definition has neither an object `data` nor a list `nodes`".to_owned(),
                ));
            }
        };
        let hash = digest::digest(&digest::SHA256, definition);
        let mut half = [0; 16];
        half.copy_from_slice(&hash.as_ref()[..16]);
        // Langflow refuses ids of other versions, so the hash is dressed as a random one.
        let id = uuid::Builder::from_random_bytes(half).into_uuid();
        // Names are unique in Langflow, so the content is part of the name too.
        let label: String = name.unwrap_or("inline").chars().filter(|c| !c.is_control()).take(100).collect();
        let name = serde_json::Value::from(format!("{label} (enginehouse {})", short(id)));
        let body = Bytes::from(format!(r#"{{"name":{name},"data":{data}}}"#));
        Ok(Flow { id: id.to_string(), body })
    }
}

fn short(id: Uuid) -> String {
    id.simple().to_string()[..12].to_owned()
}

impl Langflow {
    pub(super) fn inline_flow(&self, definition: &[u8], call: &Call) -> Result<Flow, EngineFailure> {
        if !self.config.allow_inline {
            let message = "this engine takes no workflow definitions (allow_inline)";
            let failure = EngineFailure::new(FailureKind::InvalidRequest, "inline_not_allowed", message);
            return Err(failure.with_reached(Reached::No));
        }
        Flow::read(definition, call.workflow_name.as_deref())
    }

    /// Uploads a flow unless that was done before; says whether it was.
    pub(super) async fn ensure_flow(&self, call: &Call, flow: &Flow) -> Result<bool, EngineFailure> {
        if call.host.recall(&self.fact(call, flow)?).await.is_some() {
            return Ok(true);
        }
        self.upload_flow(call, flow).await?;
        Ok(false)
    }

    pub(super) async fn upload_flow(&self, call: &Call, flow: &Flow) -> Result<(), EngineFailure> {
        let url = self.client.url(call.endpoint, &["api", "v1", "flows", &flow.id])?;
        let limit = self.client.transfer_timeout();
        let request = self.client.request(reqwest::Method::PUT, url).json(flow.body.clone());
        // The answer repeats the flow.
        let bytes_max = crate::config::CONTROL_BYTES_MAX + 4 * flow.body.len();
        // Nothing has been started yet, so a lost answer leaves no run open.
        let answer = self.client.send(request.within(limit, limit).body_bytes_max(bytes_max)).await.map_err(
            |failure| match failure.reached {
                Reached::Maybe => failure.with_reached(Reached::Yes),
                _ => failure,
            },
        )?;
        match answer.status {
            // A conflict means that another call is uploading the same content.
            200..300 | 409 => {
                call.host.remember(&self.fact(call, flow)?, &flow.id).await;
                Ok(())
            }
            _ => Err(self.client.refusal(&answer).with_reached(Reached::Yes)),
        }
    }

    /// The name of the fact that an endpoint has a flow.
    fn fact(&self, call: &Call, flow: &Flow) -> Result<String, EngineFailure> {
        let endpoint = self.client.endpoint(call.endpoint)?;
        let hash = digest::digest(&digest::SHA256, endpoint.as_str().as_bytes());
        let mut text = String::from("langflow/");
        for byte in &hash.as_ref()[..8] {
            text.push_str(&format!("{byte:02x}"));
        }
        Ok(format!("{text}/{}", flow.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_of_the_content_alone() {
        let flow = |text: &str, name| Flow::read(text.as_bytes(), name).unwrap();
        let a = flow(r#"{"nodes":[],"edges":[]}"#, None);
        let b = flow(r#"{"nodes":[],"edges":[]}"#, Some("name"));
        assert_eq!(a.id, b.id);
        assert_ne!(a.id, flow(r#"{"nodes":[],"edges":[1]}"#, None).id);
        assert_eq!(Uuid::parse_str(&a.id).unwrap().get_version_num(), 4);
    }

    #[test]
    fn exports_and_bare_data_are_taken_and_nothing_else() {
        let body = |text: &str| {
            let flow = Flow::read(text.as_bytes(), Some("my \"flow\"")).map_err(|failure| failure.code)?;
            let body: serde_json::Value = serde_json::from_slice(&flow.body).unwrap();
            assert!(body["name"].as_str().unwrap().starts_with("my \"flow\" (enginehouse "));
            Ok::<_, String>(body["data"].to_string())
        };
        assert_eq!(body(r#"{"name":"x","data":{"nodes":[1]}}"#), Ok(r#"{"nodes":[1]}"#.to_owned()));
        assert_eq!(body(r#"{"nodes":[1]}"#), Ok(r#"{"nodes":[1]}"#.to_owned()));
        for text in ["{}", "[]", "{\"data\":[]}", "{\"nodes\":{}}", "oops"] {
            assert_eq!(body(text), Err("invalid_definition".to_owned()), "{text}");
        }
    }
}
