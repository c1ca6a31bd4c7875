//! Scenarios in which one side dies or is away.

use super::stage::{LATER, SOON, Stage, brief, expect, until};
use crate::e2e::engine::Kind;
use crate::e2e::table::Cell;
use anyhow::{Result, bail};
use serde_json::json;

pub(super) fn engine_stopped(stage: &mut Stage) -> Result<Cell> {
    stage.engine_down()?;
    let id = stage.submit(&stage.request("echo", &json!({"message": "patience"}), &json!({})))?;
    // It has to be tried at least twice while no one is there.
    let waiting = until(
        SOON,
        || "the second attempt".to_owned(),
        || {
            let view = stage.view(&id)?;
            Ok((view["attempt"].as_u64() >= Some(2)).then_some(view))
        },
    )?;
    if waiting["status"] != "pending" && waiting["status"] != "running" {
        bail!("it did not wait: {}", brief(&waiting));
    }
    stage.engine_up()?;
    let view = stage.ended(&id, LATER)?;
    expect(&view, "completed")?;
    Ok(Cell::Ok(format!("waited while the engine was away, completed at attempt {}", view["attempt"])))
}

pub(super) fn engine_killed(stage: &mut Stage) -> Result<Cell> {
    let mark = stage.mark("engine-killed")?;
    let id = stage.submit(&stage.request("slow", &json!({"seconds": 12, "key": mark.key}), &json!({})))?;
    stage.until_seen("slow", &mark, SOON, |seen| seen.started == 1)?;
    // The Agent Server of the fixture writes its runs to disk every 10 s; what it never wrote, it cannot know again.
    stage.engine_kill()?;
    stage.engine_up()?;
    let view = stage.ended(&id, LATER)?;
    expect(&view, "completed")?;
    let seen = stage.until_seen("slow", &mark, SOON, |seen| seen.ended == 1)?;
    let attempts = stage.attempts(&view)?.len();
    Ok(Cell::Ok(format!("completed at attempt {attempts}; the engine's record: {seen:?}")))
}

pub(super) fn house_killed(stage: &mut Stage) -> Result<Cell> {
    let mark = stage.mark("house-killed")?;
    let id = stage.submit(&stage.request("slow", &json!({"seconds": 8, "key": mark.key}), &json!({})))?;
    stage.until_seen("slow", &mark, SOON, |seen| seen.started == 1)?;
    // The engine's run id is stored as soon as it is known; a kill before that is for the look-up scenarios.
    until(
        SOON,
        || "the engine's run id".to_owned(),
        || {
            Ok(stage
                .attempts(&stage.view(&id)?)?
                .iter()
                .any(|attempt| attempt["engineRunId"].is_string())
                .then_some(()))
        },
    )?;
    stage.house.kill()?;
    stage.house.launch()?;
    let view = stage.ended(&id, LATER)?;
    expect(&view, "completed")?;
    let seen = stage.until_seen("slow", &mark, SOON, |seen| seen.ended == 1)?;
    if seen.started != 1 {
        bail!("the work ran {} times: {seen:?}", seen.started);
    }
    if stage.kind() == Kind::N8n {
        killed_before_the_id_is_known(stage)?;
    }
    let attempts = stage.attempts(&view)?.len();
    Ok(Cell::Ok(format!("completed at attempt {attempts}; the engine ran the work once")))
}

/// A workflow that tells no id: the run is found again by the header it was called with.
fn killed_before_the_id_is_known(stage: &mut Stage) -> Result<()> {
    let mark = stage.mark("lookup-killed")?;
    let id = stage.submit(&stage.request("lookup", &json!({"seconds": 8, "key": mark.key}), &json!({})))?;
    stage.until_seen("lookup", &mark, SOON, |seen| seen.started == 1)?;
    stage.house.kill()?;
    stage.house.launch()?;
    let view = stage.ended(&id, LATER)?;
    expect(&view, "completed")?;
    let seen = stage.until_seen("lookup", &mark, SOON, |seen| seen.ended == 1)?;
    if seen.started != 1 {
        bail!("lookup: the work ran {} times: {seen:?}", seen.started);
    }
    Ok(())
}
