//! An engine of your own: anything that can be called becomes durable, queued by priority and retried.
//!
//! Run with: cargo run -p enginehouse --example custom_engine

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use enginehouse::{
    Call, Engine, EngineFailure, ExecutionService, FailureKind, Outcome, SubmitRequest, async_trait,
};
use std::sync::Arc;
use std::time::Duration;

struct Shout;

#[async_trait]
impl Engine for Shout {
    fn engine_type(&self) -> &str {
        "shout"
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
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service =
        ExecutionService::builder().engine_adapter("shout", Arc::new(Shout)).store_memory().start().await?;
    for parameters in [serde_json::json!("hello"), serde_json::json!(17)] {
        let request = SubmitRequest::new("shout", "w").parameters(&parameters)?;
        let id = service.submit(request).await?.id;
        let waited = service.wait(&id, Duration::from_secs(10)).await?;
        let ended = waited.ended().ok_or("it should have ended by now")?;
        match (ended.result, ended.failure) {
            (Some(result), _) => println!("{}: {}", ended.status, result.get()),
            (None, failure) => {
                println!("{}: {}", ended.status, failure.map(|f| f.message).unwrap_or_default())
            }
        }
    }
    service.stop().await;
    Ok(())
}
