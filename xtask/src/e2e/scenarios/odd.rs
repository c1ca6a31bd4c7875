//! Scenarios in which something stands between the service and the engine, or the engine keeps less than it could.

use super::stage::{SOON, Stage, brief, expect, failure, holds};
use crate::e2e::engine::Kind;
use crate::e2e::proxy::PAGES;
use crate::e2e::table::Cell;
use anyhow::{Result, bail};
use serde_json::json;

/// A page of a proxy in the place of one status poll: the run is followed on, and none is started beside it.
pub(super) fn foreign_page(stage: &mut Stage) -> Result<Cell> {
    for (page, (status, ..)) in PAGES.iter().enumerate() {
        let mark = stage.mark("page")?;
        stage.proxy.show(page);
        let request =
            stage.request("slow", &json!({"seconds": 3, "key": mark.key}), &json!({"engine": "behind"}));
        let view = stage.run(&request)?;
        expect(&view, "completed")?;
        let seen = stage.until_seen("slow", &mark, SOON, |seen| seen.ended == 1)?;
        if seen.started != 1 || stage.proxy.shown() != 1 || stage.attempts(&view)?.len() != 1 {
            bail!(
                "{status}: shown {} times, the engine's record says {seen:?}: {}",
                stage.proxy.shown(),
                brief(&view)
            );
        }
    }
    Ok(Cell::Ok(format!(
        "{} pages, each once in the middle of a run: completed, 1 attempt, started once",
        PAGES.len()
    )))
}

/// The proxy lets no health check through; the engine is judged by its work.
pub(super) fn no_health_route(stage: &mut Stage) -> Result<Cell> {
    let endpoint = |stage: &Stage| -> Result<serde_json::Value> {
        let engine = stage.api().must("GET", "/v1/engines/behind", None)?;
        Ok(engine["endpoints"][0].clone())
    };
    let asked = super::stage::until(
        SOON,
        || "a health check".to_owned(),
        || {
            let found = endpoint(stage)?;
            Ok((!found["health"].is_null()).then_some(found))
        },
    )?;
    if !asked["health"]["healthy"].is_null() || asked["breaker"]["state"] != "closed" {
        bail!("a missing health route counts: {asked}");
    }
    let view = stage.run(&stage.request("echo", &json!({"message": "hi"}), &json!({"engine": "behind"})))?;
    expect(&view, "completed")?;
    Ok(Cell::Ok(asked["health"]["detail"].as_str().unwrap_or_default().to_owned()))
}

/// n8n: the workflow answers with a status of its own choice, and its execution succeeds.
pub(super) fn own_status(stage: &mut Stage) -> Result<Cell> {
    if stage.kind() != Kind::N8n {
        return Ok(Cell::NotApplicable("a workflow chooses no status".to_owned()));
    }
    for workflow in ["say404", "say429", "say503"] {
        let mark = stage.mark(workflow)?;
        let view = stage.run(&stage.request(workflow, &json!({"key": mark.key}), &json!({})))?;
        expect(&view, "completed")?;
        let seen = stage.until_seen(workflow, &mark, SOON, |seen| seen.ended == 1)?;
        if seen.started != 1 {
            bail!("{workflow}: the engine's record says {seen:?}");
        }
    }
    let engine = stage.api().must("GET", "/v1/engines/real", None)?;
    if engine["endpoints"][0]["breaker"]["state"] != "closed" {
        bail!("the workflow's own 503 counts for the breaker: {}", engine["endpoints"][0]);
    }
    Ok(Cell::Ok("404, 429 and 503 of a Respond node: completed, each run once, breaker closed".to_owned()))
}

/// n8n: an execution of which nothing is kept has run, and is not run again.
pub(super) fn unsaved(stage: &mut Stage) -> Result<Cell> {
    if stage.kind() != Kind::N8n {
        return Ok(Cell::NotApplicable("the engine keeps every run".to_owned()));
    }
    let view = stage.run(&stage.request("unsaved", &json!({}), &json!({})))?;
    let kind = failure(&view, "bad_response")?;
    let message = view["failure"]["message"].as_str().unwrap_or_default();
    if kind != "bad_response/result_unavailable" || !message.contains("EXECUTIONS_DATA_SAVE_ON_SUCCESS") {
        bail!("expected result_unavailable with what to set, found {}", brief(&view));
    }
    match stage.attempts(&view)?.len() {
        1 => Ok(Cell::Ok(format!("{kind}, 1 attempt, with what to set in n8n"))),
        attempts => bail!("{attempts} attempts of what had run"),
    }
}

/// n8n: a workflow that tells no id is found while it runs, so a cancel stops it in the engine.
pub(super) fn untold_cancelled(stage: &mut Stage) -> Result<Cell> {
    if stage.kind() != Kind::N8n {
        return Ok(Cell::NotApplicable("runs are always tracked by their id".to_owned()));
    }
    let mark = stage.mark("lookup-cancel")?;
    let id = stage.submit(&stage.request("lookup", &json!({"seconds": 60, "key": mark.key}), &json!({})))?;
    stage.until_seen("lookup", &mark, SOON, |seen| seen.started == 1)?;
    stage.api().must("POST", &format!("/v1/executions/{id}/cancel"), None)?;
    let view = stage.ended(&id, SOON)?;
    expect(&view, "cancelled")?;
    let seen = stage.until_seen("lookup", &mark, SOON, |seen| seen.cancelled == 1)?;
    if seen.started != 1 || holds(&view, "abandoned") {
        bail!("the engine's record says {seen:?}: {}", brief(&view));
    }
    Ok(Cell::Ok("cancelled; the engine's record: started 1, cancelled 1".to_owned()))
}
