//! Enginehouse inside a program: from a configuration to a result and the totals.
//!
//! Run with: cargo run -p enginehouse --example embed

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use enginehouse::{ExecutionService, Priority, RetryRequest, SubmitRequest, Waited};
use serde_json::json;
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
    let echo =
        json!({"echo": {"greeting": "hello"}, "sleepMs": 20, "failTimes": 1, "failKind": "unavailable"});
    let request = SubmitRequest::new("demo", "hello")
        .id("order-17")
        .priority(Priority::High)
        .parameters(&echo)?
        .retry(RetryRequest { delay: Some(Duration::from_millis(10).into()), ..RetryRequest::default() });
    let execution = service.submit(request).await?;
    println!("submitted {}: {}", execution.id, execution.status);

    match service.wait(&execution.id, Duration::from_secs(30)).await? {
        Waited::Ended(execution) => {
            println!("{} after {} attempts", execution.status, execution.attempt);
            println!("{}", execution.result.as_deref().map_or("no result", |result| result.get()));
        }
        Waited::TimedOut(execution) => println!("still {}; it goes on", execution.status),
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
