//! An engine of your own: anything that can be called becomes durable, queued by priority and retried.
//!
//! Run with: cargo run -p enginehouse --example custom_engine

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use async_trait::async_trait;
use enginehouse::{
    Call, Capabilities, Engine, EngineFailure, ExecutionService, FailureKind, Health, Outcome, SubmitRequest,
    Workflow,
};
use std::sync::Arc;
use std::time::Duration;

struct Shout;

#[async_trait]
impl Engine for Shout {
    fn engine_type(&self) -> &str {
        "shout"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cancel: false,
            reattach: false,
            idempotent_submit: false,
            inline: false,
            progress: false,
        }
    }
    fn validate(&self, _: &Workflow<'_>) -> Result<(), EngineFailure> {
        Ok(())
    }
    async fn run(&self, call: Call) -> Outcome {
        match serde_json::from_slice::<String>(&call.parameters) {
            Ok(text) => Outcome::Succeeded {
                result: format!("\"{}\"", text.to_uppercase()).into(),
                needs_input: false,
            },
            Err(error) => Outcome::Failed(EngineFailure::new(
                FailureKind::InvalidRequest,
                "not_text",
                error.to_string(),
            )),
        }
    }
    async fn cancel(&self, _: usize, _: &str) -> Result<(), EngineFailure> {
        Ok(())
    }
    async fn health(&self, _: usize) -> Health {
        Health { healthy: Some(true), detail: "always".to_owned(), latency: 0 }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service =
        ExecutionService::builder().engine_adapter("shout", Arc::new(Shout)).store_memory().start().await?;
    for parameters in ["\"hello\"", "17"] {
        let body = format!(r#"{{"engineType": "shout", "workflowId": "w", "parameters": {parameters}}}"#);
        let request: SubmitRequest = serde_json::from_str(&body)?;
        let id = service.submit(request).await?.id;
        let ended = service.wait(&id, Duration::from_secs(10)).await?;
        match (service.result(&id).await?.result, ended.failure) {
            (Some(result), _) => println!("{}: {}", ended.status, result.get()),
            (None, failure) => {
                println!("{}: {}", ended.status, failure.map(|f| f.message).unwrap_or_default())
            }
        }
    }
    service.stop().await;
    Ok(())
}
