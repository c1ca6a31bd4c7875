//! From a request to a resolved execution: names known, limits checked, times absolute. Every refusal names its field.

use super::caller::{Caller, Scope};
use crate::state::context::Context;
use crate::state::settings::RegisteredEngine;
use enginehouse_api::{ApiError, Code, RetryRequest, Span, SubmitRequest};
use enginehouse_core::execution::{Fixed, Spec};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::id::ExecutionId;
use enginehouse_core::lifecycle::NewExecution;
use enginehouse_core::limits::{MAX_RETRIES_MAX, NAME_BYTES_MAX, SPAN_MAX, TAG_CHARS_MAX, TAGS_MAX};
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::{Millis, Time};
use enginehouse_core::trace::TraceContext;
use enginehouse_engine::{INVALID_ENGINE_OPTIONS, Workflow};

fn invalid(pointer: &str, detail: impl Into<String>) -> ApiError {
    ApiError::field(Code::InvalidField, pointer, detail)
}

/// Checks the whole request; the key, hash and idempotency key are filled in by the caller of this.
pub(super) fn resolve(
    cx: &Context,
    caller: &Caller,
    request: &SubmitRequest,
    now: Time,
) -> Result<NewExecution, ApiError> {
    let ext_id = match &request.id {
        Some(id) => Some(ExecutionId::try_from(id.clone()).map_err(|e| invalid("/id", e.to_string()))?),
        None => None,
    };
    check_callback(cx, request)?;
    let engine = cx.registry.choose(request.engine.as_deref(), request.engine_type.as_deref())?;
    let definition = inline_definition(caller, request, engine)?;
    let workflow = workflow_name(request, definition.is_some())?;
    check_with_adapter(request, engine, &workflow, definition)?;
    let user = user(caller, request)?;
    let ready_at = ready_at(request, now)?;
    let spec = spec(cx, request, engine, definition.is_some())?;
    let ckey = name(request.concurrency_key.as_deref(), "/concurrencyKey")?;
    let session = name(request.session_id.as_deref(), "/sessionId")?;
    // A thread of the Agent Server takes one run at a time, so its session is a concurrency key as well.
    let session_key =
        session.filter(|_| engine.settings.engine_type == "langsmith").map(|s| format!("session:{s}"));
    let ckey = ckey.map(|k| format!("key:{k}")).or(session_key).map(|k| cx.payloads.sealer.name_hash(&k));
    let fixed = Fixed {
        key: cx.env.key(now),
        ext_id,
        idem_key: None,
        request_hash: [0; 32],
        engine: engine.settings.name.clone(),
        engine_type: engine.settings.engine_type.clone(),
        workflow,
        user,
        ckey,
        tags: tags(request)?,
        created_at: now,
        spec,
    };
    let priority = request.priority.map(|p| p.0).unwrap_or_default();
    Ok(NewExecution { fixed, priority, ready_at, by: caller.key_id.clone() })
}

/// The longest `callbackUrl`.
const CALLBACK_URL_BYTES_MAX: usize = 2_048;

/// A URL to be told of the end at must be one, and callbacks must be configured.
fn check_callback(cx: &Context, request: &SubmitRequest) -> Result<(), ApiError> {
    let Some(text) = &request.callback_url else { return Ok(()) };
    if cx.settings.webhooks.callbacks.is_none() {
        let text = "no callbacks are configured ([callbacks] secret); use ?wait= or the event stream";
        return Err(ApiError::field(Code::NotSupported, "/callbackUrl", text));
    }
    let url = reqwest::Url::parse(text).ok().filter(|_| text.len() <= CALLBACK_URL_BYTES_MAX);
    let good = url.is_some_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    });
    let wanted = format!("an http or https URL without user, of at most {CALLBACK_URL_BYTES_MAX} bytes");
    if good { Ok(()) } else { Err(invalid("/callbackUrl", wanted)) }
}

/// The definition if the request carries one that is not empty, and may.
fn inline_definition<'a>(
    caller: &Caller,
    request: &'a SubmitRequest,
    engine: &RegisteredEngine,
) -> Result<Option<&'a str>, ApiError> {
    let Some(definition) = request.workflow.as_ref().and_then(|w| w.definition.as_ref()) else {
        return Ok(None);
    };
    let text = definition.get().trim();
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).take(3).collect();
    if compact == "{}" || text == "null" {
        return Ok(None);
    }
    if !text.starts_with('{') {
        return Err(invalid(
            "/workflow/definition",
            "a definition is a JSON object in the engine's own format",
        ));
    }
    if !engine.settings.allow_inline || !engine.adapter.capabilities().inline {
        let text = format!("engine {:?} takes no inline definitions", engine.settings.name);
        return Err(ApiError::field(Code::InlineNotAllowed, "/workflow/definition", text));
    }
    super::require(caller, Scope::SubmitInline, "carrying a definition inline")?;
    Ok(Some(text))
}

fn workflow_name(request: &SubmitRequest, inline: bool) -> Result<String, ApiError> {
    let label = request.workflow.as_ref().and_then(|w| w.name.clone()).filter(|_| inline);
    match name(request.workflow_id.as_deref(), "/workflowId")?.or(label) {
        Some(id) => Ok(id),
        None if inline => Ok("inline".to_owned()),
        None => {
            Err(invalid("/workflowId", "name the workflow, or carry its definition in workflow.definition"))
        }
    }
}

fn check_with_adapter(
    request: &SubmitRequest,
    engine: &RegisteredEngine,
    workflow: &str,
    definition: Option<&str>,
) -> Result<(), ApiError> {
    let parameters = request.parameters.as_ref().map_or("null", |p| p.get());
    let options = request.engine_options.as_ref().map(|o| o.get()).filter(|o| *o != "{}");
    if options.is_some_and(|options| !options.starts_with('{')) {
        return Err(invalid("/engineOptions", "engine options are a JSON object"));
    }
    let asked = Workflow {
        id: workflow,
        definition: definition.map(str::as_bytes),
        parameters: parameters.as_bytes(),
        options: options.map(str::as_bytes),
    };
    engine.adapter.validate(&asked).map_err(|failure| {
        let pointer = match failure.kind {
            _ if failure.code == INVALID_ENGINE_OPTIONS => "/engineOptions",
            FailureKind::NotFound => "/workflowId",
            _ if definition.is_some() && failure.code.contains("definition") => "/workflow/definition",
            _ => "/parameters",
        };
        invalid(pointer, failure.message)
    })
}

fn user(caller: &Caller, request: &SubmitRequest) -> Result<Option<String>, ApiError> {
    let asked = name(request.user_id.as_deref(), "/userId")?;
    match (&caller.user, asked) {
        (Some(pinned), Some(asked)) if *pinned != asked => {
            Err(ApiError::field(Code::Forbidden, "/userId", "this key submits for another user"))
        }
        (Some(pinned), _) => Ok(Some(pinned.clone())),
        (None, asked) => Ok(asked),
    }
}

fn ready_at(request: &SubmitRequest, now: Time) -> Result<Option<Time>, ApiError> {
    let Some(at) = request.ready_at.map(|t| t.0) else {
        return Ok(None);
    };
    if at > now.plus(SPAN_MAX) {
        return Err(invalid("/readyAt", "at most 366 days ahead"));
    }
    Ok(Some(at))
}

fn spec(
    cx: &Context,
    request: &SubmitRequest,
    engine: &RegisteredEngine,
    inline: bool,
) -> Result<Spec, ApiError> {
    let defaults = &cx.settings.defaults;
    let at_most_once = request.at_most_once.unwrap_or(false);
    let mut retry = retry(request, engine.settings.retry.as_ref().unwrap_or(&defaults.retry))?;
    if at_most_once {
        retry.max_retries = 0;
    }
    Ok(Spec {
        timeout: span(request.timeout, "/timeout")?.unwrap_or(defaults.timeout),
        total_timeout: span(request.total_timeout, "/totalTimeout")?.unwrap_or(defaults.total_timeout),
        expires_in: span(request.expires_in, "/expiresIn")?,
        idle_timeout: span(request.idle_timeout, "/idleTimeout")?.or(defaults.idle_timeout),
        retry,
        at_most_once,
        fail_fast: request.fail_fast.unwrap_or(false),
        inline,
        input_bytes: request.parameters.as_ref().map_or(0, |p| p.get().len() as u64),
        trace: trace(cx, request)?,
        callback: request.callback_url.is_some(),
    })
}

/// The caller's trace, or one that begins here when this service exports any.
fn trace(cx: &Context, request: &SubmitRequest) -> Result<Option<TraceContext>, ApiError> {
    if let Some(text) = &request.traceparent {
        let context = TraceContext::parse(text);
        return context.map(Some).ok_or_else(|| invalid("/traceparent", "is no W3C traceparent"));
    }
    let tracing = &cx.settings.tracing;
    Ok((!tracing.exporters.is_empty()).then(|| TraceContext {
        trace: cx.env.trace_id(),
        parent: None,
        sampled: cx.env.draw() < tracing.sample_ratio,
    }))
}

fn retry(request: &SubmitRequest, base: &RetryPolicy) -> Result<RetryPolicy, ApiError> {
    let asked = request.retry.clone().unwrap_or_default();
    let RetryRequest { max_retries, delay, factor, max_delay, on, not_on } = asked;
    if let (Some(short), Some(long)) = (request.max_retries, max_retries)
        && short != long
    {
        return Err(invalid("/maxRetries", "it differs from retry.maxRetries; give one of them"));
    }
    let mut policy = base.clone();
    if let Some(max) = request.max_retries.or(max_retries) {
        if max > MAX_RETRIES_MAX {
            return Err(invalid("/maxRetries", format!("at most {MAX_RETRIES_MAX}")));
        }
        policy.max_retries = max;
    }
    if let Some(delay) = delay {
        policy.delay = at_most(delay.0, "/retry/delay")?;
    }
    if let Some(factor) = factor {
        if !factor.is_finite() || !(1.0..=100.0).contains(&factor) {
            return Err(invalid("/retry/factor", "a number from 1 to 100"));
        }
        policy.factor = factor;
    }
    if let Some(max_delay) = max_delay {
        policy.max_delay = at_most(max_delay.0, "/retry/maxDelay")?;
    }
    if !on.is_empty() {
        policy.on = kinds(&on, "/retry/on")?;
    }
    if !not_on.is_empty() {
        policy.not_on = kinds(&not_on, "/retry/notOn")?;
    }
    Ok(policy)
}

fn kinds(words: &[String], pointer: &str) -> Result<Vec<FailureKind>, ApiError> {
    let parse = |(at, word): (usize, &String)| {
        FailureKind::parse(word).filter(|k| !k.is_final()).ok_or_else(|| {
            let all: Vec<&str> =
                FailureKind::ALL.iter().filter(|k| !k.is_final()).map(|k| k.as_str()).collect();
            invalid(&format!("{pointer}/{at}"), format!("a failure kind, one of: {}", all.join(", ")))
        })
    };
    if words.len() > FailureKind::ALL.len() {
        return Err(invalid(pointer, "more entries than there are failure kinds"));
    }
    words.iter().enumerate().map(parse).collect()
}

fn span(span: Option<Span>, pointer: &str) -> Result<Option<Millis>, ApiError> {
    match span {
        Some(Span(0)) => Err(invalid(pointer, "at least 1 ms")),
        Some(Span(ms)) => at_most(ms, pointer).map(Some),
        None => Ok(None),
    }
}

fn at_most(ms: Millis, pointer: &str) -> Result<Millis, ApiError> {
    if ms > SPAN_MAX { Err(invalid(pointer, "at most 366 days")) } else { Ok(ms) }
}

/// A name in a request: not empty, bounded, without control characters.
fn name(text: Option<&str>, pointer: &str) -> Result<Option<String>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(invalid(pointer, format!("1 to {NAME_BYTES_MAX} bytes without control characters")));
    }
    Ok(Some(text.to_owned()))
}

fn tags(request: &SubmitRequest) -> Result<Vec<String>, ApiError> {
    if request.tags.len() > TAGS_MAX {
        return Err(invalid("/tags", format!("at most {TAGS_MAX} tags")));
    }
    for (at, tag) in request.tags.iter().enumerate() {
        let fits = (1..=TAG_CHARS_MAX).contains(&tag.chars().count()) && !tag.chars().any(char::is_control);
        if !fits {
            let text = format!("1 to {TAG_CHARS_MAX} characters without control characters");
            return Err(invalid(&format!("/tags/{at}"), text));
        }
    }
    let mut tags = request.tags.clone();
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}
