//! Enginehouse inside a program: from a configuration to a result and the totals.
//!
//! Run with: cargo run -p enginehouse --example embed

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use enginehouse::{ExecutionService, SubmitRequest};
use std::time::Duration;

/// The sections that a deployment usually has; durations are milliseconds.
const CONFIG: &str = r#"{
  "scaling": { "minWorkers": 2, "maxWorkers": 20, "targetUtilization": 0.7, "scaleUpThreshold": 0.8, "scaleDownThreshold": 0.3,
    "scaleUpCooldown": 5000, "scaleDownCooldown": 10000, "workerStartupTime": 1000 },
  "faultTolerance": { "maxRetries": 3, "retryDelay": 1000, "backoffFactor": 2,
    "circuitBreakerConfig": { "failureThreshold": 5, "resetTimeout": 30000, "monitoringPeriod": 60000 } },
  "storage": { "resultRetentionDays": 30, "compressionEnabled": true, "encryptionEnabled": true },
  "metrics": { "collectionInterval": 1000, "aggregationWindow": 60000, "retentionPeriod": 86400000 },
  "engines": { "demo": { "type": "demo" } }
}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In memory here; `.data_dir("data")` keeps everything in a directory.
    let service = ExecutionService::builder().config_json(CONFIG)?.store_memory().start().await?;
    let request: SubmitRequest = serde_json::from_str(
        r#"{"id": "order-17", "engineType": "demo", "workflowId": "hello", "priority": "HIGH",
            "parameters": {"echo": {"greeting": "hello"}, "sleepMs": 20, "failTimes": 1, "failKind": "unavailable"},
            "retry": {"delay": 10}}"#,
    )?;
    let execution = service.submit(request).await?;
    println!("submitted {}: {}", execution.id, execution.status);

    let execution = service.wait(&execution.id, Duration::from_secs(30)).await?;
    println!("{} after {} attempts", execution.status, execution.attempt);
    if let Some(result) = service.result(&execution.id).await?.result {
        println!("{}", result.get());
    }

    let metrics = service.metrics().await?;
    println!("{} executions, {} successful", metrics.total_executions, metrics.successful_executions);
    for worker in service.workers().await?.workers {
        println!("{} {} of capacity {}", worker.id, worker.status, worker.capacity);
    }
    service.stop().await;
    println!("stopped");
    Ok(())
}
