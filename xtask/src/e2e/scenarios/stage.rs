//! What every scenario needs: the engine, a service in front of it, and ways to ask both.

use crate::api::Api;
use crate::e2e::engine::{Engine, Kind, Mark, Seen};
use crate::e2e::house::{House, place};
use crate::e2e::proxy::Proxy;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an ordinary execution may take.
pub(super) const SOON: Duration = Duration::from_secs(60);
/// How long one may take whose engine has to come back first.
pub(super) const LATER: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A key that no engine takes.
pub(super) const WRONG_KEY: &str = "not-the-key-of-this-engine";

/// The engine and the service.
pub(in crate::e2e) struct Stage {
    pub(super) engine: Engine,
    pub(super) house: House,
    /// Stands in front of the engine that is named `behind`.
    pub(super) proxy: Proxy,
    engine_is_down: bool,
    serial: u32,
}

impl Stage {
    pub(in crate::e2e) fn new(engine: Engine, release: bool) -> Result<Stage> {
        let proxy = Proxy::start(engine.kind(), engine.url())?;
        let wrong = place("wrong.key");
        std::fs::create_dir_all(place(""))?;
        std::fs::write(&wrong, WRONG_KEY).with_context(|| wrong.display().to_string())?;
        let config = configuration(&engine, &proxy, &wrong);
        let env = [("E2E_ENGINE_KEY", engine.key()), ("E2E_WRONG_KEY", WRONG_KEY)];
        let house = House::start_built(&place(engine.kind().name()), &config, &env, release)?;
        Ok(Stage { engine, house, proxy, engine_is_down: false, serial: 0 })
    }

    /// Puts everything back to work after a scenario that left something down.
    pub(in crate::e2e) fn recover(&mut self) -> Result<()> {
        if self.engine_is_down {
            self.engine_up()?;
        }
        if !self.house.is_running() {
            self.house.launch()?;
        }
        Ok(())
    }

    pub(in crate::e2e) fn finish(self) -> Result<()> {
        self.house.stop()
    }

    pub(super) fn kind(&self) -> Kind {
        self.engine.kind()
    }

    /// The service's API, with its admin key.
    pub(super) fn api(&self) -> Api {
        self.house.api()
    }

    pub(super) fn engine_down(&mut self) -> Result<()> {
        self.engine_is_down = true;
        self.engine.down()
    }

    pub(super) fn engine_kill(&mut self) -> Result<()> {
        self.engine_is_down = true;
        self.engine.kill()
    }

    /// Starts the engine on the data it had.
    pub(super) fn engine_up(&mut self) -> Result<()> {
        self.engine.up(true)?;
        self.engine_is_down = false;
        Ok(())
    }

    /// A name no earlier scenario used, and where the engine's record stands.
    pub(super) fn mark(&mut self, name: &str) -> Result<Mark> {
        self.serial += 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        self.engine.mark(&format!("{name}-{}-{now}", self.serial))
    }

    /// A request for a fixture workflow; `more` adds fields or replaces them.
    pub(super) fn request(&self, workflow: &str, parameters: &Value, more: &Value) -> Value {
        let mut request =
            json!({"engine": "real", "workflowId": self.engine.workflow(workflow), "parameters": parameters});
        for (name, value) in more.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        request
    }

    pub(super) fn submit(&self, request: &Value) -> Result<String> {
        let view = self.api().must("POST", "/v1/executions", Some(request))?;
        Ok(view["id"].as_str().context("id")?.to_owned())
    }

    pub(super) fn view(&self, id: &str) -> Result<Value> {
        self.api().must("GET", &format!("/v1/executions/{id}"), None)
    }

    /// The execution once it has ended.
    pub(super) fn ended(&self, id: &str, within: Duration) -> Result<Value> {
        let what = || format!("the end of {id}");
        until(within, what, || {
            let view = self.view(id)?;
            let status = view["status"].as_str().unwrap_or_default();
            Ok(matches!(status, "completed" | "failed" | "cancelled").then(|| view.clone()))
        })
        .or_else(|error| bail!("{error:#}; it is {}", brief(&self.view(id)?)))
    }

    /// Submits and waits for the end.
    pub(super) fn run(&self, request: &Value) -> Result<Value> {
        self.ended(&self.submit(request)?, SOON)
    }

    pub(super) fn result(&self, view: &Value) -> Result<Value> {
        let id = view["id"].as_str().context("id")?;
        let found = self.api().must("GET", &format!("/v1/executions/{id}/result"), None)?;
        Ok(found["result"].clone())
    }

    pub(super) fn attempts(&self, view: &Value) -> Result<Vec<Value>> {
        let id = view["id"].as_str().context("id")?;
        let found = self.api().must("GET", &format!("/v1/executions/{id}/attempts"), None)?;
        Ok(found["attempts"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until the engine's record of a workflow is as wanted.
    pub(super) fn until_seen(
        &self,
        workflow: &str,
        mark: &Mark,
        within: Duration,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Result<Seen> {
        let found = until(
            within,
            || "the engine's own record".to_owned(),
            || {
                let seen = self.engine.seen(workflow, mark)?;
                Ok(wanted(&seen).then_some(seen))
            },
        );
        found.or_else(|error| bail!("{error:#}; it says {:?}", self.engine.seen(workflow, mark)?))
    }
}

/// Looks again and again; an error of one look ends the wait.
pub(super) fn until<T>(
    within: Duration,
    what: impl Fn() -> String,
    look: impl Fn() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{} did not come within {} s", what(), within.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Fails unless the execution ended so.
pub(super) fn expect(view: &Value, status: &str) -> Result<()> {
    if view["status"] == status {
        return Ok(());
    }
    bail!("expected {status}, found {}", brief(view))
}

/// `kind/code` of a failure that must be there.
pub(super) fn failure(view: &Value, kind: &str) -> Result<String> {
    expect(view, "failed")?;
    let failure = &view["failure"];
    if failure["kind"] != kind {
        bail!("expected the failure kind {kind}, found {}", brief(view));
    }
    Ok(format!("{kind}/{}", failure["code"].as_str().unwrap_or_default()))
}

/// What of an execution explains it, on one line.
pub(super) fn brief(view: &Value) -> String {
    let short = json!({"status": view["status"], "failure": view["failure"], "attempt": view["attempt"],
                       "waitReason": view["waitReason"]});
    short.to_string().chars().take(500).collect()
}

/// Whether a text stands anywhere in a value.
pub(super) fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(fields) => fields.values().any(|field| holds(field, text)),
        _ => false,
    }
}

/// The service's configuration: the engine with its key, with a wrong one from the environment and from a file, and behind
/// the proxy.
fn configuration(engine: &Engine, proxy: &Proxy, wrong: &Path) -> String {
    let mut config = "[health]\ninterval = \"1s\"\n\n".to_owned();
    let file = format!("file = {:?}", wrong.display().to_string());
    let (good, bad) = ("env = \"E2E_ENGINE_KEY\"", "env = \"E2E_WRONG_KEY\"");
    for (name, key, url) in [
        ("real", good, engine.url()),
        ("wrong-key", bad, engine.url()),
        ("wrong-file", &file, engine.url()),
        ("behind", good, proxy.url()),
    ] {
        let inline = engine.kind() != Kind::Langgraph;
        config.push_str(&format!(
            "[engines.{name}]\ntype = \"{}\"\ndefault = {}\nendpoints = [{{ url = \"{}\" }}]\napi_key = {{ {key} }}\nallow_inline = {inline}\n",
            engine.kind().engine_type(),
            name == "real",
            url,
        ));
        if engine.kind() == Kind::N8n {
            for (workflow, mode) in [
                ("echo", "track"),
                ("slow", "track"),
                ("fail", "track"),
                ("big", "track"),
                ("flaky", "track"),
                ("ack", "ack"),
                ("lookup", "lookup"),
                ("unsaved", "track"),
                ("say404", "lookup"),
                ("say429", "lookup"),
                ("say503", "lookup"),
            ] {
                let id = engine.workflow(workflow);
                config.push_str(&format!(
                    "workflows.\"{id}\" = {{ path = \"fixture-{workflow}\", mode = \"{mode}\" }}\n"
                ));
            }
        }
        config.push('\n');
    }
    config
}
