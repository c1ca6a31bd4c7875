//! The library inside a program, with engines that misbehave.

use async_trait::async_trait;
use enginehouse::{
    Call, Capabilities, Engine, EngineFailure, ExecutionService, Health, Outcome, Status, SubmitRequest,
    Waited, Workflow,
};
use std::sync::Arc;
use std::time::Duration;

/// Panics when told to, else answers.
struct Brittle;

#[async_trait]
impl Engine for Brittle {
    fn engine_type(&self) -> &str {
        "brittle"
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
        assert!(&call.parameters[..] != b"\"panic\"", "as it was told");
        Outcome::Succeeded { result: call.parameters, needs_input: false }
    }
    async fn cancel(&self, _: usize, _: &str) -> Result<(), EngineFailure> {
        Ok(())
    }
    async fn health(&self, _: usize) -> Health {
        Health { healthy: Some(true), detail: "always".to_owned(), latency: 0 }
    }
}

async fn ended(service: &ExecutionService, body: &str) -> enginehouse::ExecutionView {
    let request: SubmitRequest = serde_json::from_str(body).unwrap();
    let id = service.submit(request).await.unwrap().id;
    service.wait(&id, Duration::from_secs(30)).await.unwrap().ended().expect("it ends")
}

#[tokio::test]
async fn an_adapter_that_panics_ends_its_attempt_and_nothing_else() {
    let service = ExecutionService::builder()
        .engine_adapter("brittle", Arc::new(Brittle))
        .store_memory()
        .start()
        .await
        .unwrap();
    let body = |parameters: &str| {
        let retry = r#""retry":{"maxRetries":1,"delay":1}"#;
        format!(r#"{{"engineType":"brittle","workflowId":"w",{retry},"parameters":{parameters}}}"#)
    };
    let failed = ended(&service, &body("\"panic\"")).await;
    assert_eq!((failed.status.as_str(), failed.attempt), ("failed", 2));
    assert_eq!(failed.failure.map(|failure| failure.code).as_deref(), Some("adapter_panicked"));
    assert_eq!(ended(&service, &body("1")).await.status, Status::Completed, "the worker goes on");
    service.stop().await;
}

#[tokio::test]
async fn a_wait_says_whether_the_end_came() {
    let demo = "[engines.demo]\ntype = \"demo\"\n";
    let service =
        ExecutionService::builder().config_toml(demo).unwrap().store_memory().start().await.unwrap();
    let request =
        SubmitRequest::new("demo", "w").parameters(&serde_json::json!({"sleepMs": 60_000})).unwrap();
    let id = service.submit(request).await.unwrap().id;
    let waited = service.wait(&id, Duration::from_millis(1)).await.unwrap();
    assert!(matches!(&waited, Waited::TimedOut(execution) if execution.id == id), "{waited:?}");
    assert!(waited.ended().is_none());
    service.cancel(&id).await.unwrap();
    let waited = service.wait(&id, Duration::from_secs(30)).await.unwrap();
    assert!(
        matches!(&waited, Waited::Ended(execution) if execution.status == Status::Cancelled),
        "{waited:?}"
    );
    let error = service.wait("nobody", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code, enginehouse::Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn a_program_scales_its_workers() {
    let service = ExecutionService::builder()
        .config_toml(
            "[scaling]\ntick_interval = \"50ms\"\nmin_workers = 1\n[engines.demo]\ntype = \"demo\"\n",
        )
        .unwrap()
        .store_memory()
        .start()
        .await
        .unwrap();
    let until = async |count: u32| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while service.scaling().ready != count {
            assert!(tokio::time::Instant::now() < deadline, "{count}: {:?}", service.scaling());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(1).await;
    assert_eq!(service.scale_to(5).await.unwrap().rules.min_workers, 5);
    until(5).await;
    assert!(service.scale_to(5_000).await.is_err(), "more than there may be");
    service.scale_to(3).await.unwrap();
    until(3).await;
    assert_eq!(service.scale_by_rules().await.unwrap().rules.min_workers, 1);
    service.stop().await;
}
