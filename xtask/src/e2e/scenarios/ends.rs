//! Scenarios in which both sides stay up: every way an execution can end.

use super::stage::{SOON, Stage, WRONG_KEY, brief, expect, failure, holds};
use crate::e2e::engine::Kind;
use crate::e2e::table::Cell;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub(super) fn echo(stage: &mut Stage) -> Result<Cell> {
    let view = stage.run(&stage.request("echo", &json!({"message": "hello"}), &json!({})))?;
    expect(&view, "completed")?;
    let result = stage.result(&view)?;
    if !holds(&result, "hello") {
        bail!("the result does not hold the message: {result}");
    }
    Ok(Cell::Ok(short(&result).to_string()))
}

pub(super) fn parameters(stage: &mut Stage) -> Result<Cell> {
    let message = "Zürich \"quoted\" \\ back\nline \u{1F980} {{ $json }} %2F </script>";
    let view = stage.run(&stage.request("echo", &json!({"message": message}), &json!({})))?;
    expect(&view, "completed")?;
    let result = stage.result(&view)?;
    if !holds(&result, message) {
        bail!("the message came back changed: {result}");
    }
    let id = view["id"].as_str().context("id")?;
    let request = stage.api().must("GET", &format!("/v1/executions/{id}/request"), None)?;
    if request["parameters"]["message"] != message {
        bail!("the stored request differs: {request}");
    }
    Ok(Cell::Ok("a text with quotes, line break, emoji and template marks came back unchanged".to_owned()))
}

pub(super) fn cancelled(stage: &mut Stage) -> Result<Cell> {
    let mark = stage.mark("cancel")?;
    let id = stage.submit(&stage.request("slow", &json!({"seconds": 60, "key": mark.key}), &json!({})))?;
    stage.until_seen("slow", &mark, SOON, |seen| seen.started == 1)?;
    stage.api().must("POST", &format!("/v1/executions/{id}/cancel"), None)?;
    let view = stage.ended(&id, SOON)?;
    expect(&view, "cancelled")?;
    let seen = stage.until_seen("slow", &mark, SOON, |seen| seen.cancelled == 1)?;
    if seen.ended != 0 || seen.started != 1 {
        bail!("the engine's record says {seen:?}");
    }
    Ok(Cell::Ok("cancelled; the engine's record: started 1, cancelled 1, ended 0".to_owned()))
}

pub(super) fn timed_out(stage: &mut Stage) -> Result<Cell> {
    let mark = stage.mark("timeout")?;
    let request = stage.request("slow", &json!({"seconds": 60, "key": mark.key}), &json!({"timeout": "5s"}));
    let view = stage.run(&request)?;
    let kind = failure(&view, "timeout")?;
    let seen = stage.until_seen("slow", &mark, SOON, |seen| seen.cancelled == 1)?;
    if seen.ended != 0 || seen.started != 1 {
        bail!("the engine's record says {seen:?}");
    }
    Ok(Cell::Ok(format!("{kind}; the engine's record: started 1, cancelled 1, ended 0")))
}

pub(super) fn fails(stage: &mut Stage) -> Result<Cell> {
    let mark = stage.mark("fail")?;
    let text = format!("deliberately broken {}", mark.key);
    let view = stage.run(&stage.request("fail", &json!({"message": text}), &json!({})))?;
    let kind = failure(&view, "engine_error")?;
    let message = view["failure"]["message"].as_str().unwrap_or_default();
    if !message.contains(&text) {
        bail!("the engine's own message is missing: {}", brief(&view));
    }
    let attempts = stage.attempts(&view)?.len();
    if attempts != 1 {
        bail!("a business error was tried {attempts} times");
    }
    Ok(Cell::Ok(format!("{kind}, 1 attempt, {message:?}")))
}

pub(super) fn flaky(stage: &mut Stage) -> Result<Cell> {
    let mark = stage.mark("flaky")?;
    let retry = json!({"retry": {"on": ["engine_error"], "maxRetries": 3, "delay": 100}});
    let request = stage.request("flaky", &json!({"key": mark.key, "failures": 2}), &retry);
    let view = stage.run(&request)?;
    expect(&view, "completed")?;
    let attempts = stage.attempts(&view)?.len();
    let seen = stage.until_seen("flaky", &mark, SOON, |seen| seen.started == 3)?;
    if attempts != 3 {
        bail!("{attempts} attempts, the engine's record says {seen:?}");
    }
    Ok(Cell::Ok("completed at attempt 3; the engine saw 3 runs".to_owned()))
}

pub(super) fn big(stage: &mut Stage) -> Result<Cell> {
    let view = stage.run(&stage.request("big", &json!({"kb": 1024}), &json!({})))?;
    expect(&view, "completed")?;
    let result = stage.result(&view)?;
    if !holds(&result, &"x".repeat(1024 * 1024)) {
        bail!("the result is not whole: {} bytes of JSON", result.to_string().len());
    }
    Ok(Cell::Ok(format!("{} bytes of JSON, whole", result.to_string().len())))
}

pub(super) fn wrong_key(stage: &mut Stage) -> Result<Cell> {
    let mut request = stage.request("echo", &json!({"message": "hi"}), &json!({}));
    request["engine"] = json!("wrong-key");
    let view = stage.run(&request)?;
    let kind = failure(&view, "auth")?;
    if view.to_string().contains(WRONG_KEY) {
        bail!("the key stands in the answer: {}", brief(&view));
    }
    Ok(Cell::Ok(format!("{kind}, {} attempt", stage.attempts(&view)?.len())))
}

pub(super) fn unknown_workflow(stage: &mut Stage) -> Result<Cell> {
    let unknown = "00000000-0000-4000-8000-00000000dead";
    let view = stage.run(&json!({"engine": "real", "workflowId": unknown, "parameters": {}}))?;
    let kind = failure(&view, "not_found")?;
    Ok(Cell::Ok(format!("{kind}: {}", view["failure"]["message"].as_str().unwrap_or_default())))
}

pub(super) fn inline(stage: &mut Stage) -> Result<Cell> {
    let Some(definition) = stage.engine.definition()? else {
        return Ok(Cell::NotApplicable("an Agent Server takes no definitions".to_owned()));
    };
    let before = stage.engine.workflow_count()?;
    let request = json!({"engine": "real", "workflow": {"name": "e2e inline", "definition": definition},
                         "parameters": {"message": "inline"}});
    for _ in 0..2 {
        let view = stage.run(&request)?;
        expect(&view, "completed")?;
        if !holds(&stage.result(&view)?, "inline") {
            bail!("the result does not hold the message: {}", stage.result(&view)?);
        }
    }
    let made = stage.engine.workflow_count()? - before;
    if made != 1 {
        bail!("two executions of one definition made {made} workflows");
    }
    Ok(Cell::Ok("2 executions completed, 1 workflow made in the engine".to_owned()))
}

pub(super) fn twenty(stage: &mut Stage) -> Result<Cell> {
    let one = stage.request("echo", &json!({"message": "one of twenty"}), &json!({}));
    let batch = json!({"executions": vec![one; 20]});
    let begun = std::time::Instant::now();
    let answer = stage.api().must("POST", "/v1/executions/batch", Some(&batch))?;
    let ids: Vec<String> = answer["executions"]
        .as_array()
        .context("executions")?
        .iter()
        .filter_map(|item| item["id"].as_str().map(str::to_owned))
        .collect();
    for id in &ids {
        expect(&stage.ended(id, 3 * SOON)?, "completed")?;
    }
    Ok(Cell::Ok(format!("{} completed in {:.1} s", ids.len(), begun.elapsed().as_secs_f64())))
}

/// n8n: workflows that say their execution's id otherwise, or not at all. Agent Server: a graph that asks a human.
/// Langflow: the interface without background jobs has the contract suite.
pub(super) fn other_ways(stage: &mut Stage) -> Result<Cell> {
    match stage.kind() {
        Kind::N8n => {
            for workflow in ["ack", "lookup"] {
                let mark = stage.mark(workflow)?;
                let view = stage.run(&stage.request(
                    workflow,
                    &json!({"seconds": 2, "key": mark.key}),
                    &json!({}),
                ))?;
                expect(&view, "completed")?;
                let seen = stage.until_seen(workflow, &mark, SOON, |seen| seen.ended == 1)?;
                if seen.started != 1 {
                    bail!("{workflow}: the engine's record says {seen:?}");
                }
            }
            Ok(Cell::Ok("ack and lookup: completed, the engine ran each once".to_owned()))
        }
        Kind::Langflow => {
            Ok(Cell::NotApplicable("background jobs are always tracked by their id".to_owned()))
        }
        Kind::Langgraph => human_answer(stage),
    }
}

fn human_answer(stage: &mut Stage) -> Result<Cell> {
    let mark = stage.mark("ask")?;
    let session = json!({"sessionId": mark.key});
    let asked = stage.run(&stage.request("ask", &json!({"question": "go on?"}), &session))?;
    expect(&asked, "completed")?;
    if asked["needsInput"] != true || !holds(&stage.result(&asked)?, "go on?") {
        bail!("the interrupt is not reported: {} {}", brief(&asked), stage.result(&asked)?);
    }
    let answered = stage.run(&stage.request("ask", &json!({"command": {"resume": "yes, do"}}), &session))?;
    expect(&answered, "completed")?;
    let result: Value = stage.result(&answered)?;
    if !holds(&result, "yes, do") {
        bail!("the answer did not arrive: {result}");
    }
    Ok(Cell::Ok("the interrupt ended completed with needsInput, the answer resumed the graph".to_owned()))
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(120).collect()
}
