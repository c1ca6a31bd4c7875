//! A real engine, started by its recipe, and its own record of what ran on it.

use crate::api::Api;
use crate::process::{output, root, run};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// The key the Agent Server's fixture asks for.
const AGENT_SERVER_KEY: &str = "fixture-agent-server-key";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    N8n,
    Langflow,
    Langgraph,
}

impl Kind {
    pub(super) const ALL: [Kind; 3] = [Kind::N8n, Kind::Langflow, Kind::Langgraph];

    pub(super) fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::N8n => "n8n",
            Kind::Langflow => "langflow",
            Kind::Langgraph => "langgraph",
        }
    }

    /// The engine type of the service's configuration.
    pub(super) fn engine_type(self) -> &'static str {
        match self {
            Kind::N8n => "n8n",
            Kind::Langflow => "langflow",
            Kind::Langgraph => "langsmith",
        }
    }

    pub(super) fn default_port(self) -> u16 {
        match self {
            Kind::N8n => 5678,
            Kind::Langflow => 7860,
            Kind::Langgraph => 8123,
        }
    }
}

/// Where the record stood before a scenario.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) key: String,
    newest: u64,
}

/// What the engine itself says about the runs since a mark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) started: usize,
    pub(super) ended: usize,
    pub(super) cancelled: usize,
    /// Ended in another way: failed, crashed.
    pub(super) other: usize,
}

/// A running engine; stopped when dropped unless it is to be kept.
pub(super) struct Engine {
    kind: Kind,
    port: u16,
    keep: bool,
    about: Value,
}

impl Engine {
    pub(super) fn start(kind: Kind, port: u16, keep: bool) -> Result<Engine> {
        let mut engine = Engine { kind, port, keep, about: Value::Null };
        engine.up(false)?;
        Ok(engine)
    }

    /// Starts it; with `keep_state` on the data of its last run, as after a restart.
    pub(super) fn up(&mut self, keep_state: bool) -> Result<()> {
        let mut command = self.script("up.sh");
        command.env("KEEP_STATE", if keep_state { "1" } else { "0" }).stderr(Stdio::inherit());
        if self.kind == Kind::Langgraph {
            command.env("FIXTURE_API_KEY", AGENT_SERVER_KEY);
        }
        let told = output(&mut command)?;
        self.about = serde_json::from_slice(&told).context("what up.sh printed")?;
        Ok(())
    }

    pub(super) fn down(&self) -> Result<()> {
        run(&mut self.script("down.sh"))
    }

    /// Kills the engine with all its processes, without a warning.
    pub(super) fn kill(&self) -> Result<()> {
        let group = format!("-{}", self.about["pid"].as_u64().context("pid")?);
        run(Command::new("kill").args(["-KILL", "--", &group]))
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(root().join("e2e/engines").join(self.kind.name()).join(name));
        command.arg(self.port.to_string());
        command
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn url(&self) -> &str {
        self.about["base_url"].as_str().unwrap_or_default()
    }

    pub(super) fn version(&self) -> &str {
        self.about["version"].as_str().unwrap_or_default()
    }

    pub(super) fn key(&self) -> &str {
        self.about["api_key"].as_str().unwrap_or_default()
    }

    /// The id by which an execution names a fixture workflow.
    pub(super) fn workflow(&self, name: &str) -> String {
        let about = &self.about["workflows"][name];
        let id = if self.kind == Kind::Langgraph { &about["assistant_id"] } else { &about["id"] };
        id.as_str().unwrap_or(name).to_owned()
    }

    /// The engine's own API, past the service.
    pub(super) fn api(&self) -> Api {
        Api::new(self.url(), Some((self.about["auth_header"].as_str().unwrap_or("x-api-key"), self.key())))
    }

    pub(super) fn mark(&self, key: &str) -> Result<Mark> {
        let newest = match self.kind {
            Kind::N8n => self.n8n_executions(None)?.iter().map(|(id, _)| *id).max().unwrap_or(0),
            Kind::Langflow | Kind::Langgraph => 0,
        };
        Ok(Mark { key: key.to_owned(), newest })
    }

    /// The runs of the fixture `workflow` since the mark, as the engine recorded them.
    pub(super) fn seen(&self, workflow: &str, mark: &Mark) -> Result<Seen> {
        let mut seen = Seen::default();
        if self.kind == Kind::N8n {
            for (_, status) in self.n8n_executions(Some((workflow, mark.newest)))? {
                seen.started += 1;
                match status.as_str() {
                    "success" => seen.ended += 1,
                    "canceled" => seen.cancelled += 1,
                    "running" | "waiting" | "new" => {}
                    _ => seen.other += 1,
                }
            }
            return Ok(seen);
        }
        let trace = self.about["trace_file"].as_str().context("trace_file")?;
        for line in std::fs::read_to_string(trace).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            match words.as_slice() {
                ["slow", what, key] if workflow == "slow" && *key == mark.key => match *what {
                    "start" => seen.started += 1,
                    "end" => seen.ended += 1,
                    "cancelled" => seen.cancelled += 1,
                    _ => seen.other += 1,
                },
                ["flaky", key, _] if workflow == "flaky" && *key == mark.key => seen.started += 1,
                _ => {}
            }
        }
        Ok(seen)
    }

    /// Ids and statuses, running ones included; of one workflow after an id, or of all.
    fn n8n_executions(&self, of: Option<(&str, u64)>) -> Result<Vec<(u64, String)>> {
        let api = self.api();
        let filter =
            of.map(|(workflow, _)| format!("&workflowId={}", self.workflow(workflow))).unwrap_or_default();
        let mut found = Vec::new();
        // The list leaves out what is not finished, unless it is asked for by its status.
        for status in ["", "&status=running", "&status=waiting"] {
            let page = api.must("GET", &format!("/api/v1/executions?limit=250{filter}{status}"), None)?;
            for execution in page["data"].as_array().context("data")? {
                let id: u64 = execution["id"].as_str().unwrap_or_default().parse().context("execution id")?;
                let status = execution["status"].as_str().unwrap_or_default().to_owned();
                let counts = of.is_none_or(|(_, after)| id > after);
                if counts && !found.iter().any(|(other, _)| *other == id) {
                    found.push((id, status));
                }
            }
        }
        Ok(found)
    }

    /// A definition to be carried in a request: the engine's own export of its echo fixture.
    pub(super) fn definition(&self) -> Result<Option<Value>> {
        let id = self.workflow("echo");
        Ok(match self.kind {
            Kind::N8n => {
                let found = self.api().must("GET", &format!("/api/v1/workflows/{id}"), None)?;
                Some(
                    json!({"nodes": found["nodes"], "connections": found["connections"], "settings": found["settings"]}),
                )
            }
            Kind::Langflow => {
                let found = self.api().must("GET", &format!("/api/v1/flows/{id}"), None)?;
                Some(json!({"data": found["data"]}))
            }
            Kind::Langgraph => None,
        })
    }

    /// How many workflows the engine holds.
    pub(super) fn workflow_count(&self) -> Result<usize> {
        let api = self.api();
        let count = match self.kind {
            Kind::N8n => {
                api.must("GET", "/api/v1/workflows?limit=250", None)?["data"].as_array().map(Vec::len)
            }
            Kind::Langflow => {
                let path = "/api/v1/flows/?get_all=true&remove_example_flows=true&header_flows=true";
                api.must("GET", path, None)?.as_array().map(Vec::len)
            }
            Kind::Langgraph => bail!("an Agent Server holds no workflows of its callers"),
        };
        count.context("a list of workflows")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.keep {
            println!("{} goes on at {}", self.kind.name(), self.url());
        } else if let Err(error) = self.down() {
            eprintln!("{} could not be stopped: {error:#}", self.kind.name());
        }
    }
}
