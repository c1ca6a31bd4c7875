//! The events of the whole service.

use super::params::{LAST_EVENT_ID, STREAM};
use crate::call::{Call, ResponseFuture};
use crate::events;
use crate::query::QueryParam;
use crate::table::{Access, Operation, Route, Tag, Verb};
use axum::response::Response;
use enginehouse_api::{ApiError, Code};
use enginehouse_core::event::event_names;
use enginehouse_runtime::{EventFilter, EventsFrom, Scope};
use serde_json::json;

pub(crate) const ROUTES: &[Route] = &[Route {
    verb: Verb::Get,
    path: "/v1/events",
    access: Access::Scope(Scope::Read),
    handler: |call| -> ResponseFuture { Box::pin(stream(call)) },
    operation: Some(Operation {
        description: "Server-sent events of all executions and of the service itself (breakers, workers, scaling, alerts, what \
                      operators did), in the order in which they were committed: `id` (opaque), `event` (the type), `data` (an \
                      EventView with `engine` and `status`). Durable events only, and, for who names that type, \
                      `metrics_updated` with the figures each collection interval, which has no id; the progress of a run \
                      is in its execution's own stream. A reader that is too slow is cut off and goes on with \
                      `Last-Event-ID`; `event_gone` says that what came after it is not kept any more. A comment beats \
                      every 15 s.",
        query: QUERY,
        headers: LAST_EVENT_ID,
        answers: &[STREAM],
        problems: &[Code::EventGone, Code::RateLimited, Code::StoreUnavailable],
        ..Operation::new("streamAllEvents", Tag::Service, "Stream the service's events")
    }),
}];

/// Every type that a reader can name.
fn names() -> Vec<&'static str> {
    let mut names = event_names();
    names.push("metrics_updated");
    names
}

const QUERY: &[QueryParam] = &[
    QueryParam {
        name: "type",
        description: "Only these types: repeated, or separated by commas.",
        schema: || json!({"type": "array", "items": {"type": "string", "enum": names()}}),
        list: true,
    },
    QueryParam {
        name: "engine",
        description: "Only executions of this engine, by name.",
        schema: || json!({"type": "string", "minLength": 1, "maxLength": 256}),
        list: false,
    },
    QueryParam {
        name: "after",
        description: "Begin after the event with this id, or with the `oldest` that is kept; otherwise with what happens next. \
                      `Last-Event-ID` counts more.",
        schema: || json!({"type": "string", "minLength": 1, "maxLength": 128}),
        list: false,
    },
];

async fn stream(call: Call) -> Result<Response, ApiError> {
    let from = match (call.last_event_id()?, call.query.one("after")) {
        (Some(id), _) => EventsFrom::After(id.to_owned()),
        (None, Some("oldest")) => EventsFrom::Oldest,
        (None, Some(id)) => EventsFrom::After(id.to_owned()),
        (None, None) => EventsFrom::Now,
    };
    let filter = EventFilter {
        types: call.query.all("type").map(str::to_owned).collect(),
        engine: call.query.one("engine").map(str::to_owned),
    };
    let room = call.app.room_for_a_stream()?;
    let items = call.service().subscribe(&call.caller, filter, from).await?;
    Ok(events::answer(items, call.app.event_beat, call.app.stop.clone(), room))
}
