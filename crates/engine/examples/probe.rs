//! Runs one workflow on a real engine through its adapter, and prints all that the adapter says.
//!
//! ```text
//! probe TYPE URL WORKFLOW [--params JSON] [--key KEY] [--id ID] [--session ID] [--options JSON] [--inline FILE] [--api v1]
//!       [--cancel-after MS] [--drop-after MS] [--engine-run RUN] [--maybe-started] [--unreachable-after MS]
//! probe TYPE URL --health [--key KEY]
//! probe TYPE URL --cancel RUN [--key KEY]
//! ```
//! With `--drop-after` the call is let go after that time and its run taken up again by its id.

#![allow(clippy::print_stdout, reason = "a program for people at a terminal")]

use async_trait::async_trait;
use bytes::Bytes;
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::langflow::{Langflow, LangflowApi, LangflowConfig};
use enginehouse_engine::langsmith::{Langsmith, LangsmithConfig};
use enginehouse_engine::{Call, Engine, Host, LetGo, Outcome, Progress, Stop, StopSignal, Workflow};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of a result is shown.
const SHOWN_CHARS: usize = 300;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::read()?;
    let engine = arguments.engine()?;
    let begun = Instant::now();
    if arguments.has("--health") {
        println!("{:?}", engine.health(0).await);
        return Ok(());
    }
    if let Some(run) = arguments.get("--cancel") {
        println!("{:?}", engine.cancel(0, run).await);
        return Ok(());
    }
    let host = Arc::new(PrintingHost { begun, run: Mutex::default(), facts: Mutex::default() });
    let (stop, signal) = StopSignal::new();
    let call = arguments.call(host.clone(), signal)?;
    let workflow = Workflow {
        id: &call.workflow_id,
        definition: call.definition.as_deref(),
        parameters: &call.parameters,
        options: call.options.as_deref(),
    };
    println!("validate: {:?}", engine.validate(&workflow));
    if let Some(after) = arguments.millis("--cancel-after")? {
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            println!("{:>6} ms  stop", begun.elapsed().as_millis());
            stop.send_replace(Some(Stop::Cancel));
        });
    }
    let outcome = match arguments.millis("--drop-after")? {
        None => engine.run(call).await,
        Some(after) => match tokio::time::timeout(after, engine.run(call.clone())).await {
            Ok(outcome) => outcome,
            Err(_) => {
                println!("{:>6} ms  let go", begun.elapsed().as_millis());
                let engine_run = host.run.lock().unwrap_or_else(PoisonError::into_inner).clone();
                arguments.engine()?.run(Call { engine_run, attempt: 2, ..call }).await
            }
        },
    };
    let took = begun.elapsed().as_millis();
    match outcome {
        Outcome::Succeeded { result, needs_input } => {
            let text: String = String::from_utf8_lossy(&result).chars().take(SHOWN_CHARS).collect();
            println!("{took:>6} ms  succeeded, {} bytes, needs_input {needs_input}: {text}", result.len());
        }
        outcome => println!("{took:>6} ms  {outcome:?}"),
    }
    Ok(())
}

struct Arguments {
    words: Vec<String>,
    named: BTreeMap<String, String>,
}

impl Arguments {
    fn read() -> Result<Arguments, Box<dyn Error>> {
        let mut words = Vec::new();
        let mut named = BTreeMap::new();
        let mut rest = std::env::args().skip(1);
        while let Some(word) = rest.next() {
            match word.as_str() {
                "--health" | "--maybe-started" => drop(named.insert(word, String::new())),
                name if name.starts_with("--") => {
                    let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
                    named.insert(word, value);
                }
                _ => words.push(word),
            }
        }
        if words.len() < 2 {
            return Err("usage: probe TYPE URL WORKFLOW [--params JSON] ...".into());
        }
        Ok(Arguments { words, named })
    }

    fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    fn millis(&self, name: &str) -> Result<Option<Duration>, Box<dyn Error>> {
        Ok(self.get(name).map(str::parse).transpose()?.map(Duration::from_millis))
    }

    fn engine(&self) -> Result<Arc<dyn Engine>, Box<dyn Error>> {
        let mut http = HttpSettings::new(&self.words[1]);
        http.api_key = self.get("--key").map(Into::into);
        if let Some(span) = self.millis("--unreachable-after")? {
            http.poll.unreachable_after = span;
        }
        match self.words[0].as_str() {
            "langsmith" => Ok(Arc::new(Langsmith::new(LangsmithConfig::new(http))?)),
            "langflow" => {
                let api = if self.get("--api") == Some("v1") { LangflowApi::V1 } else { LangflowApi::V2 };
                let inline = self.has("--inline");
                Ok(Arc::new(Langflow::new(LangflowConfig {
                    api,
                    allow_inline: inline,
                    ..LangflowConfig::new(http)
                })?))
            }
            other => Err(format!("no such engine type: {other}").into()),
        }
    }

    fn call(&self, host: Arc<dyn Host>, stop: StopSignal) -> Result<Call, Box<dyn Error>> {
        let fresh = format!("probe-{}", uuid::Uuid::from_u128(rand::random()));
        let id = self.get("--id").map_or(fresh, str::to_owned);
        Ok(Call {
            idempotency_key: format!("{id}.1"),
            traceparent: None,
            execution_id: id,
            attempt: 1,
            workflow_id: self.words.get(2).cloned().unwrap_or_default(),
            definition: self.get("--inline").map(std::fs::read).transpose()?.map(Bytes::from),
            workflow_name: None,
            parameters: Bytes::from(self.get("--params").unwrap_or("null").to_owned()),
            options: self.get("--options").map(|text| Bytes::copy_from_slice(text.as_bytes())),
            session_id: self.get("--session").map(str::to_owned),
            endpoint: 0,
            engine_run: self.get("--engine-run").map(str::to_owned),
            maybe_started: self.has("--maybe-started"),
            result_bytes_max: enginehouse_core::limits::RESULT_BYTES_MAX,
            host,
            stop,
        })
    }
}

/// Says what an adapter tells its worker.
struct PrintingHost {
    begun: Instant,
    run: Mutex<Option<String>>,
    facts: Mutex<BTreeMap<String, String>>,
}

impl PrintingHost {
    fn say(&self, what: &str) {
        println!("{:>6} ms  {what}", self.begun.elapsed().as_millis());
    }
}

#[async_trait]
impl Host for PrintingHost {
    async fn attached(&self, engine_run: &str, can_reattach: bool) -> Result<(), LetGo> {
        self.say(&format!("attached {engine_run} (can re-attach: {can_reattach})"));
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine_run.to_owned());
        Ok(())
    }

    fn progress(&self, progress: Progress) {
        let data = progress.data.as_ref().map_or("null", |data| data.get());
        self.say(&format!("progress {:?} {data}", progress.fraction));
    }

    fn log(&self, line: &str) {
        self.say(&format!("log {line}"));
    }

    async fn recall(&self, name: &str) -> Option<String> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn remember(&self, name: &str, value: &str) {
        self.say(&format!("remember {name} = {value}"));
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.to_owned());
    }
}
