//! `demo`: runs in process and does what its parameters say, so that a newcomer and the tests have something to run.
//!
//! Its endpoints can be made slow or taken down while it runs, to see what the service does about it.

use crate::config::{ConfigError, ENDPOINTS_MAX};
use crate::{Call, Capabilities, Engine, EngineFailure, Health, Outcome, Progress, Reached, Workflow};
use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::limits::{RESULT_BYTES_MAX, SPAN_MAX};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// Progress items of one run.
const PROGRESS_MAX: u32 = 10_000;

/// What a demo workflow is told to do; everything may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Script {
    /// Given back in the result.
    echo: Option<Box<RawValue>>,
    /// How long it takes, in milliseconds.
    sleep_ms: u64,
    /// Number of attempts that fail, from the first on.
    fail_times: u32,
    /// What they fail with; `engine_error` unless told otherwise.
    fail_kind: Option<FailureKind>,
    /// Bytes of filling in the result.
    result_bytes: usize,
    /// Progress items, spread over the time it takes.
    progress: u32,
    /// Changes an endpoint first; this reaches even one that is down.
    endpoint: Option<Switch>,
}

/// How an endpoint is from now on; what is not said stays.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Switch {
    /// Which one, from 0; absent: all of them.
    index: Option<usize>,
    down: Option<bool>,
    /// Milliseconds added to every run.
    delay_ms: Option<u64>,
}

impl Script {
    /// `null` (no parameters were given) stands for an empty script.
    fn read(parameters: &[u8]) -> Result<Script, EngineFailure> {
        let invalid = |text: String| EngineFailure::new(FailureKind::InvalidRequest, "demo_parameters", text);
        let script: Option<Script> = serde_json::from_slice(parameters).map_err(|error| {
            invalid(format!(
                "the demo engine does not understand its parameters: {error}; it takes echo, sleepMs, failTimes, \
                 failKind, resultBytes, progress and endpoint"
            ))
        })?;
        let script = script.unwrap_or_default();
        if script.result_bytes > RESULT_BYTES_MAX {
            return Err(invalid(format!(
                "resultBytes is {}; at most {RESULT_BYTES_MAX}",
                script.result_bytes
            )));
        }
        if script.progress > PROGRESS_MAX {
            return Err(invalid(format!("progress is {}; at most {PROGRESS_MAX}", script.progress)));
        }
        if script.sleep_ms > SPAN_MAX {
            return Err(invalid(format!("sleepMs is {}; at most {SPAN_MAX}", script.sleep_ms)));
        }
        Ok(script)
    }

    fn result(&self, attempt: u32) -> Bytes {
        let echo = self.echo.as_ref().map_or("null", |echo| echo.get());
        let data = "x".repeat(self.result_bytes);
        Bytes::from(format!("{{\"echo\":{echo},\"attempt\":{attempt},\"data\":\"{data}\"}}"))
    }
}

/// The demo engine: one value with any number of pretended endpoints.
#[derive(Debug, Clone)]
pub struct Demo {
    endpoints: Arc<[Endpoint]>,
}

#[derive(Debug, Default)]
struct Endpoint {
    down: AtomicBool,
    /// Milliseconds added to every run.
    delay: AtomicU64,
}

impl Default for Demo {
    fn default() -> Demo {
        Demo { endpoints: Arc::new([Endpoint::default()]) }
    }
}

impl Demo {
    /// # Errors
    /// A number of endpoints outside 1 to 256.
    pub fn new(endpoints: usize) -> Result<Demo, ConfigError> {
        if !(1..=ENDPOINTS_MAX).contains(&endpoints) {
            let text = format!("{endpoints} demo endpoints; give 1 to {ENDPOINTS_MAX}");
            return Err(ConfigError::new("endpoints", text));
        }
        Ok(Demo { endpoints: (0..endpoints).map(|_| Endpoint::default()).collect() })
    }

    /// From now on the endpoint refuses connections, or takes them again. An unknown endpoint changes nothing.
    pub fn set_down(&self, endpoint: usize, down: bool) {
        if let Some(endpoint) = self.endpoints.get(endpoint) {
            endpoint.down.store(down, Ordering::Release);
        }
    }

    /// From now on every run at the endpoint takes so much longer.
    pub fn set_delay(&self, endpoint: usize, delay: Duration) {
        if let Some(endpoint) = self.endpoints.get(endpoint) {
            endpoint
                .delay
                .store(u64::try_from(delay.as_millis()).unwrap_or(SPAN_MAX).min(SPAN_MAX), Ordering::Release);
        }
    }

    fn switch(&self, switch: Switch) {
        for endpoint in 0..self.endpoints.len() {
            if switch.index.is_some_and(|index| index != endpoint) {
                continue;
            }
            if let Some(down) = switch.down {
                self.set_down(endpoint, down);
            }
            if let Some(delay) = switch.delay_ms {
                self.set_delay(endpoint, Duration::from_millis(delay));
            }
        }
    }

    fn reach(&self, endpoint: usize) -> Result<&Endpoint, EngineFailure> {
        let found = self.endpoints.get(endpoint).filter(|e| !e.down.load(Ordering::Acquire));
        found.ok_or_else(|| {
            let text = format!("the demo endpoint {endpoint} is down");
            EngineFailure::new(FailureKind::Connection, "refused", text).with_reached(Reached::No)
        })
    }

    async fn play(&self, call: &Call) -> Result<Bytes, EngineFailure> {
        let script = Script::read(&call.parameters)?;
        if let Some(switch) = script.endpoint {
            self.switch(switch);
            return Ok(script.result(call.attempt));
        }
        let delay = self.reach(call.endpoint)?.delay.load(Ordering::Acquire);
        let takes = Duration::from_millis(script.sleep_ms.saturating_add(delay));
        let steps = script.progress + 1;
        for step in 1..=steps {
            // A timer for no time at all still waits for the clock's next tick.
            if !takes.is_zero() {
                sleep(takes / steps).await;
            }
            if step < steps {
                let fraction = f64::from(step) / f64::from(steps);
                call.host.progress(Progress { fraction: Some(fraction), data: None });
            }
        }
        if call.attempt <= script.fail_times {
            let kind = script.fail_kind.unwrap_or(FailureKind::EngineError);
            let text = format!("attempt {} fails, as failTimes {} says", call.attempt, script.fail_times);
            call.host.log(&text);
            return Err(EngineFailure::new(kind, "demo_failure", text));
        }
        let result = script.result(call.attempt);
        if result.len() > call.result_bytes_max {
            let text =
                format!("the result has {} bytes; at most {} are kept", result.len(), call.result_bytes_max);
            return Err(EngineFailure::new(FailureKind::TooLarge, "result", text));
        }
        Ok(result)
    }
}

#[async_trait]
impl Engine for Demo {
    fn engine_type(&self) -> &str {
        "demo"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { cancel: true, reattach: false, idempotent_submit: false, inline: true, progress: true }
    }

    fn validate(&self, workflow: &Workflow<'_>) -> Result<(), EngineFailure> {
        workflow.without_options("demo")?;
        Script::read(workflow.parameters).map(|_| ())
    }

    async fn run(&self, call: Call) -> Outcome {
        tokio::select! {
            biased;
            played = self.play(&call) => match played {
                Ok(result) => Outcome::Succeeded { result, needs_input: false },
                Err(failure) => Outcome::Failed(failure),
            },
            _ = call.stopped() => Outcome::Cancelled,
        }
    }

    async fn cancel(&self, _endpoint: usize, _engine_run: &str) -> Result<(), EngineFailure> {
        Ok(())
    }

    async fn health(&self, endpoint: usize) -> Health {
        match self.reach(endpoint) {
            Ok(_) => Health { healthy: Some(true), detail: "up".to_owned(), latency: 0 },
            Err(failure) => Health { healthy: Some(false), detail: failure.message, latency: 0 },
        }
    }
}
