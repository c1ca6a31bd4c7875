//! Keys of the type `http`: any HTTP service.

use crate::config::checker::Checker;
use crate::config::types::{Flag, Text, section};
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::{HttpConfig, HttpFollow, HttpStep, HttpStream};
use std::collections::BTreeMap;

section! {
    /// Keys of the type `http`. Templates are minijinja; those of requests see `parameters`, `workflow_id`, `execution_id`, `session_id`, `attempt`, `idempotency_key`, those of `follow` also `run_id`; conditions see `status` and `body`.
    pub struct HttpRaw {
        /// Starts the work.
        request: StepRaw = StepRaw::default();
        /// Follows it. Absent: the answer to `request` is the end.
        follow: Option<FollowRaw> = None;
        /// Stops it; sees `run_id` only.
        cancel: Option<StepRaw> = None;
        /// Condition on an answer: it is a success. Absent: a status of 200 to 299.
        success: Option<Text> = None;
        /// Condition on an answer: the work itself failed.
        failure: Option<Text> = None;
        /// Condition on an answer: the run was stopped.
        cancelled: Option<Text> = None;
        /// JSON pointer to the result in the answer. Absent: all of it.
        result: Option<Text> = None;
        /// Template that makes the result (JSON) from the answer; wins over `result`.
        result_template: Option<Text> = None;
        /// JSON pointer to the message in a failed answer.
        message: Option<Text> = None;
        /// How an answer to `request` is read that is a stream of server-sent events.
        stream: StreamRaw = StreamRaw::default();
        /// The service recognises a repeated request by its `Idempotency-Key`.
        idempotent: Flag = Flag(false);
    }

    /// One request.
    pub struct StepRaw {
        /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
        method: Text = Text("POST".to_owned());
        /// Template of the path below the endpoint's URL; each value becomes one percent-encoded segment.
        path: Text = Text("/".to_owned());
        /// Templates of headers, by name; for secrets use the engine's own `headers`.
        headers: BTreeMap<String, Text> = BTreeMap::new();
        /// Template of a JSON body, each value as JSON. Absent: in `request` the parameters as they are, in `cancel` none.
        body: Option<Text> = None;
    }

    /// How the events of an answer are read. An event is named by its `event` field, else by `event` or `type` in its data.
    pub struct StreamRaw {
        /// The event whose data is the answer. Absent: the pieces of text that language models stream, put together, else the last event that is no mark of the end and no report of progress.
        answer: Option<Text> = None;
        /// The event that says that the work failed.
        failure: Text = Text("error".to_owned());
        /// JSON pointer to a piece of text in an event's data; all pieces together are the answer.
        join: Option<Text> = None;
    }

    /// How a run is followed.
    pub struct FollowRaw {
        /// JSON pointer to the service's id of the run, in the answer to `request`; or `location`: the last part of the path in its `Location` header.
        run_id: Text = Text("/id".to_owned());
        /// Where the URL of the run's status is in that answer, instead of an id: a JSON pointer or `location`. Its path and query are asked for at the endpoint, and `path` is not used; `run_id` in the templates of `cancel` and `events` is the last part of its path.
        status_url: Option<Text> = None;
        /// JSON pointer to the id of the run in a polled answer. One that names another run is not believed, and the run is looked at again. Absent: whatever is answered is about the run that was asked for.
        polled_id: Option<Text> = None;
        /// Where the URL of the result is in the answer that says that the run has ended: a JSON pointer or `location`. Absent: that answer holds it. An answer with status 303 leads to the result in any case.
        result_url: Option<Text> = None;
        /// `GET` or another method.
        method: Text = Text("GET".to_owned());
        /// Template of the path.
        path: Text = Text("/".to_owned());
        /// Templates of headers, by name.
        headers: BTreeMap<String, Text> = BTreeMap::new();
        /// Template of a JSON body.
        body: Option<Text> = None;
        /// Condition on a polled answer: it is the end.
        done: Option<Text> = None;
        /// Template of the path of the run's server-sent events, read by GET for progress. An event's data is told as it is; a JSON object may tell how far the run is, as `{"progress": 0.5}`. Absent: there are none.
        events: Option<Text> = None;
    }
}

pub(super) fn resolve(
    raw: &HttpRaw,
    http: HttpSettings,
    path: &str,
    checker: &mut Checker<'_>,
) -> HttpConfig {
    let HttpRaw {
        request,
        follow,
        cancel,
        success,
        failure,
        cancelled,
        result,
        result_template,
        message,
        stream,
        idempotent,
    } = raw;
    let StreamRaw { answer, failure: failed, join } = stream;
    HttpConfig {
        http,
        request: step(request),
        follow: follow.as_ref().map(|raw| follow_of(raw, path, checker)),
        cancel: cancel.as_ref().map(step),
        success: text(success),
        failure: text(failure),
        cancelled: text(cancelled),
        result: text(result),
        result_template: text(result_template),
        message: text(message),
        stream: HttpStream { answer: text(answer), failure: failed.0.clone(), join: text(join) },
        idempotent: idempotent.0,
    }
}

fn follow_of(raw: &FollowRaw, path: &str, checker: &mut Checker<'_>) -> HttpFollow {
    let FollowRaw {
        run_id,
        status_url,
        polled_id,
        result_url,
        method,
        path: polled,
        headers,
        body,
        done,
        events,
    } = raw;
    if done.is_none() {
        checker.fault(&format!("{path}/follow/done"), "is missing: when is a polled answer the end?");
    }
    HttpFollow {
        run_id: run_id.0.clone(),
        status_url: text(status_url),
        polled_id: text(polled_id),
        result_url: text(result_url),
        step: HttpStep {
            method: method.0.clone(),
            path: polled.0.clone(),
            headers: texts(headers),
            body: text(body),
        },
        done: text(done).unwrap_or_default(),
        events: events
            .as_ref()
            .map(|path| HttpStep { headers: texts(headers), ..HttpStep::new("GET", path.0.clone()) }),
    }
}

fn step(raw: &StepRaw) -> HttpStep {
    let StepRaw { method, path, headers, body } = raw;
    HttpStep { method: method.0.clone(), path: path.0.clone(), headers: texts(headers), body: text(body) }
}

fn texts(raw: &BTreeMap<String, Text>) -> BTreeMap<String, String> {
    raw.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect()
}

fn text(raw: &Option<Text>) -> Option<String> {
    raw.as_ref().map(|text| text.0.clone())
}
