//! Scenarios on a thread of the Agent Server that others use as well, and graphs that stop before their end.

use super::stage::{SOON, Stage, brief, expect, holds, until};
use crate::e2e::engine::Kind;
use crate::e2e::table::Cell;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Executions whose thread gets another run.
const PAIRS: u64 = 6;

fn only_here(stage: &Stage) -> Option<Cell> {
    (stage.kind() != Kind::Langgraph).then(|| Cell::NotApplicable("runs share no threads".to_owned()))
}

/// A thread that no one has used.
fn thread(at: u64) -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    Ok(format!("{:08x}-0000-4000-8000-{:012x}", at, now & 0xffff_ffff_ffff))
}

/// Starts a run of someone else's on a thread.
fn foreign_run(stage: &Stage, thread: &str, graph: &str, input: &Value) -> Result<()> {
    let body = json!({"assistant_id": graph, "input": input, "if_not_exists": "create", "multitask_strategy": "enqueue"});
    stage.engine.api().must("POST", &format!("/threads/{thread}/runs"), Some(&body)).map(drop)
}

/// Another run is queued behind each execution's; each execution ends with its own state, failure or question all the same.
pub(super) fn two_runs(stage: &mut Stage) -> Result<Cell> {
    if let Some(cell) = only_here(stage) {
        return Ok(cell);
    }
    let mut pairs = Vec::new();
    for at in 0..PAIRS {
        let (key, thread) = (stage.mark("thread")?.key, thread(at)?);
        let request =
            stage.request("slow", &json!({"seconds": 2, "key": key}), &json!({"sessionId": thread}));
        let id = stage.submit(&request)?;
        until(
            SOON,
            || format!("the run of {id}"),
            || Ok(stage.view(&id)?["engineRunId"].as_str().map(drop)),
        )?;
        // The same graph, and another one that the thread is read through from then on.
        let graph = if at % 2 == 0 { "slow" } else { "echo" };
        foreign_run(stage, &thread, graph, &json!({"message": "theirs", "seconds": 0.1, "key": "theirs"}))?;
        pairs.push((id, key));
    }
    for (id, key) in pairs {
        let view = stage.ended(&id, SOON)?;
        expect(&view, "completed")?;
        let result = stage.result(&view)?;
        if result["key"] != key || result["output"]["slept"] != 2.0 || holds(&result, "theirs") {
            bail!("{id} got what is not its own: {result}");
        }
    }
    Ok(Cell::Ok(format!("{PAIRS} of {PAIRS} executions ended with their own state")))
}

/// Someone else's run is on the thread: the execution waits for it, and burns nothing by that.
pub(super) fn busy_thread(stage: &mut Stage) -> Result<Cell> {
    if let Some(cell) = only_here(stage) {
        return Ok(cell);
    }
    let thread = thread(0x99)?;
    foreign_run(stage, &thread, "slow", &json!({"seconds": 4}))?;
    let more = json!({"sessionId": thread, "maxRetries": 0});
    let id = stage.submit(&stage.request("echo", &json!({"message": "hi"}), &more))?;
    until(
        SOON,
        || format!("the wait of {id}"),
        || Ok((stage.view(&id)?["wait"]["reason"] == "conflict").then_some(())),
    )?;
    let engine = stage.api().must("GET", "/v1/engines/real", None)?;
    let limit = &engine["endpoints"][0]["limit"];
    if !limit["frozenUntil"].is_null() {
        bail!("a busy thread freezes the endpoint: {limit}");
    }
    let view = stage.ended(&id, SOON)?;
    expect(&view, "completed")?;
    let tries = view["attempt"].as_u64().context("attempt")?;
    Ok(Cell::Ok(format!("waited as `conflict`, looked {tries} times with maxRetries 0, completed")))
}

/// A graph that was compiled to stop before a node, and goes on when it is told to.
pub(super) fn breakpoint(stage: &mut Stage) -> Result<Cell> {
    if let Some(cell) = only_here(stage) {
        return Ok(cell);
    }
    let session = json!({"sessionId": thread(0xbb)?});
    let stopped = stage.run(&stage.request("stepped", &json!({"message": "m"}), &session))?;
    expect(&stopped, "completed")?;
    let result = stage.result(&stopped)?;
    if stopped["needsInput"] != true || result != json!({"message": "m, one"}) {
        bail!("the breakpoint is not told: {} {result}", brief(&stopped));
    }
    let through = stage.run(&stage.request("stepped", &Value::Null, &session))?;
    expect(&through, "completed")?;
    let result = stage.result(&through)?;
    if !through["needsInput"].is_null() || result["output"] != json!({"two": "m, one"}) {
        bail!("it did not go on: {} {result}", brief(&through));
    }
    Ok(Cell::Ok("completed with needsInput at the breakpoint, went on from there".to_owned()))
}
