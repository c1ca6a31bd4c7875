//! Following a run of a service: by the id or the URL of its status that the service gave.
//!
//! A URL that the service gives counts by its path and query only: where requests go, the configuration says.

use super::answer::{Judged, beginning, is_out_of_service, malformed, web_page};
use super::request::wrong;
use super::values::{AnswerValues, request_values};
use super::{Http, HttpFollow, LOCATION, pointer};
use crate::client::{Answer, Poll, Request, StreamEvent, watch_events};
use crate::contract::{Call, EngineFailure, Outcome};
use crate::tracked::run_lost;
use enginehouse_core::failure::FailureKind;
use minijinja::context;
use minijinja::value::Value;
use reqwest::Url;
use serde_json::value::RawValue;
use std::convert::Infallible;
use tokio::sync::Notify;

/// What a poll said.
enum Polled {
    /// The run has ended, and this answer says how.
    Ended(Box<Answer>),
    /// The run has succeeded, and this is where its result is.
    ResultAt(Url),
    GoesOn,
}

impl Http {
    /// The service's own name of the run that this answer says was started.
    pub(super) fn begun(
        &self,
        call: &Call,
        follow: &HttpFollow,
        answer: &Answer,
    ) -> Result<String, EngineFailure> {
        if !answer.is_success() {
            let failed = !is_out_of_service(answer.status) && self.says_it_is_over(answer)?;
            return Err(if failed { self.work_failed(answer) } else { self.client.refusal(answer) });
        }
        let missing = |what: &str, place: &str| {
            let place =
                if place == LOCATION { "in its header Location".to_owned() } else { format!("at {place}") };
            let text = format!("the request was taken, but the answer has no {what} {place}");
            let failure = malformed(answer, format!("{text}{}", beginning(&answer.body)));
            EngineFailure { code: "no_run_id".to_owned(), ..failure }
        };
        if let Some(place) = &follow.status_url {
            let url =
                self.url_in(call.endpoint, answer, place).ok_or_else(|| missing("URL of the run", place))?;
            return Ok(path_and_query(&url));
        }
        let id = match follow.run_id.as_str() {
            LOCATION => {
                let url = self.url_in(call.endpoint, answer, LOCATION);
                url.and_then(|url| last_segment(url.path()))
            }
            place => {
                // What is not JSON has nothing anywhere.
                answer.json::<Box<RawValue>>().ok().and_then(|json| pointer::text(&json, place))
            }
        };
        id.filter(|id| !id.is_empty()).ok_or_else(|| missing("id of the run", &follow.run_id))
    }

    /// The URL that stands in an answer, below the endpoint's host.
    fn url_in(&self, endpoint: usize, answer: &Answer, place: &str) -> Option<Url> {
        let text = match place {
            LOCATION => answer.header("location")?.to_owned(),
            place => pointer::text(&answer.json::<Box<RawValue>>().ok()?, place)?,
        };
        self.below_host(endpoint, &text).ok()
    }

    /// The path and query of a URL, or of a part of one, at the host of the endpoint.
    fn below_host(&self, endpoint: usize, text: &str) -> Result<Url, EngineFailure> {
        let base = self.client.endpoint(endpoint)?;
        let named = base.join(text).map_err(|error| wrong(error.to_string()))?;
        let mut url = base.clone();
        url.set_path(named.path());
        url.set_query(named.query());
        Ok(url)
    }

    /// What templates see of a run by its name alone.
    pub(super) fn run_values(&self, engine_run: &str) -> Result<Value, EngineFailure> {
        if engine_run.chars().any(char::is_control) {
            return Err(run_lost("not the id of a run"));
        }
        Ok(context! { run_id => self.id_of(engine_run) })
    }

    /// The id of a run that is named by its URL is the last part of its path.
    fn id_of(&self, engine_run: &str) -> String {
        let by_url = self.config.follow.as_ref().is_some_and(|follow| follow.status_url.is_some());
        let path = engine_run.split('?').next().unwrap_or_default();
        let id = if by_url { last_segment(path) } else { None };
        id.unwrap_or_else(|| engine_run.to_owned())
    }

    /// Polls a run to its end; meanwhile its events, if the service has any, are told as progress.
    pub(super) async fn outcome(
        &self,
        call: &Call,
        engine_run: &str,
        follow: &HttpFollow,
    ) -> Result<Outcome, EngineFailure> {
        let values = request_values(call, Some(&self.id_of(engine_run)));
        let ended = Notify::new();
        let polling = self.poll_to_the_end(call, engine_run, &values, follow, &ended);
        tokio::select! {
            biased;
            outcome = polling => outcome,
            never = self.watch(call, &values, follow, &ended) => match never {},
        }
    }

    /// Tells a run's events as progress for as long as it is polled.
    async fn watch(&self, call: &Call, values: &Value, follow: &HttpFollow, ended: &Notify) -> Infallible {
        if let Some(events) = &follow.events {
            let open = || self.request("follow.events", events, call.endpoint, values);
            let on_event = |event: &StreamEvent| self.tell(call, event);
            watch_events(&self.client, open, None, on_event, ended).await;
        }
        std::future::pending().await
    }

    async fn poll_to_the_end(
        &self,
        call: &Call,
        engine_run: &str,
        values: &Value,
        follow: &HttpFollow,
        stream_ended: &Notify,
    ) -> Result<Outcome, EngineFailure> {
        let mut poll = self.client.poll(call).doubting();
        let mut elsewhere = self.client.poll(call);
        let limit = self.client.transfer_timeout();
        let ask = || {
            let request = if follow.status_url.is_some() {
                self.client.get(self.below_host(call.endpoint, engine_run)?)
            } else {
                self.request("follow", &follow.step, call.endpoint, values)?
            };
            Ok(request.within(limit, limit).body_bytes_max(2 * call.result_bytes_max))
        };
        loop {
            let polled = poll
                .until_known(&self.client, ask, |answer| {
                    let about = self.is_about(engine_run, follow, &answer);
                    // What says nothing about any run has an id of its own: that of the request, say.
                    let polled = self.polled(call.endpoint, follow, answer)?;
                    about.map(|()| polled)
                })
                .await?;
            match polled {
                None => return Err(run_lost("the service does not know this run any more")),
                Some(Polled::Ended(answer)) => return self.ended(call, follow, &mut poll, &answer).await,
                Some(Polled::ResultAt(url)) => match self.seen_at(call, url).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(failure) if failure.kind == FailureKind::EngineError => return Err(failure),
                    // It may be no result but a page on the way: the run is asked for again.
                    Err(failure) => elsewhere.missed(self.client.scrubbed(failure))?,
                },
                Some(Polled::GoesOn) => {}
            }
            tokio::select! {
                biased;
                () = stream_ended.notified() => poll.quicken(),
                () = poll.pause() => {}
            }
        }
    }

    /// Refuses an answer that names another run, where it is configured how one names its own.
    fn is_about(&self, engine_run: &str, follow: &HttpFollow, answer: &Answer) -> Result<(), EngineFailure> {
        let named = follow
            .polled_id
            .as_ref()
            .and_then(|place| pointer::text(&answer.json::<Box<RawValue>>().ok()?, place));
        if named.is_none_or(|named| named == self.id_of(engine_run)) {
            return Ok(());
        }
        let failure = malformed(answer, "the service's answer is about another run".to_owned());
        Err(EngineFailure { code: "contradictory_answer".to_owned(), ..failure })
    }

    /// `None`: the service says, in its JSON, that it knows no such run.
    fn polled(
        &self,
        endpoint: usize,
        follow: &HttpFollow,
        answer: Answer,
    ) -> Result<Option<Polled>, EngineFailure> {
        if answer.is_success() {
            let _: serde::de::IgnoredAny = answer.json()?;
            let values = AnswerValues::compared(answer.status, &answer.body);
            let done = self.templates.holds("follow.done", &follow.done, &values)?;
            let over = done || self.says_it_is_over(&answer)?;
            return Ok(Some(if over { Polled::Ended(Box::new(answer)) } else { Polled::GoesOn }));
        }
        // "See other": the run has ended, and its result is there. A sign-in page is elsewhere.
        if answer.status == 303
            && let Some(url) = self.result_of_303(endpoint, &answer)
        {
            return Ok(Some(Polled::ResultAt(url)));
        }
        let is_json = answer.json::<serde::de::IgnoredAny>().is_ok();
        let of_the_way = is_out_of_service(answer.status)
            || matches!(answer.status, 300..=399 | 401 | 403..=405 | 407 | 410);
        if is_json && !of_the_way && self.says_it_is_over(&answer)? {
            return Ok(Some(Polled::Ended(Box::new(answer))));
        }
        if is_json && matches!(answer.status, 404 | 410) {
            return Ok(None);
        }
        // It says nothing about the run; what passes is waited for.
        Err(self.client.refusal(&answer))
    }

    fn result_of_303(&self, endpoint: usize, answer: &Answer) -> Option<Url> {
        let base = self.client.endpoint(endpoint).ok()?;
        let named = base.join(answer.header("location")?).ok()?;
        let here =
            named.host() == base.host() && named.port_or_known_default() == base.port_or_known_default();
        here.then(|| self.below_host(endpoint, named.as_str()).ok()).flatten()
    }

    /// What an answer means that says that the run has ended.
    async fn ended(
        &self,
        call: &Call,
        follow: &HttpFollow,
        poll: &mut Poll,
        answer: &Answer,
    ) -> Result<Outcome, EngineFailure> {
        let Some(place) = &follow.result_url else {
            return self.conclude(answer, call.result_bytes_max);
        };
        match self.judge(answer)? {
            Judged::Cancelled => Ok(Outcome::Cancelled),
            Judged::Succeeded => {
                let url = self.url_in(call.endpoint, answer, place).ok_or_else(|| {
                    let text =
                        format!("the run succeeded, but the answer has no URL of its result at {place}");
                    let failure = malformed(answer, text);
                    EngineFailure { code: "result_unavailable".to_owned(), ..failure }.not_repeated()
                })?;
                self.result_at(call, poll, url).await
            }
        }
    }

    /// What stands where a run's own answer led to.
    async fn seen_at(&self, call: &Call, url: Url) -> Result<Outcome, EngineFailure> {
        let limit = self.client.transfer_timeout();
        let request = self.client.get(url).within(limit, limit).body_bytes_max(2 * call.result_bytes_max);
        let answer = self.client.send(request).await?;
        if !answer.is_success() {
            return Err(self.client.refusal(&answer));
        }
        if answer.is_web_page() {
            return Err(web_page(&answer));
        }
        if self.says_it_is_over(&answer)? || self.is_success(&answer)? {
            return self.conclude(&answer, call.result_bytes_max);
        }
        Err(malformed(&answer, "what the service led to as its result does not fulfil success".to_owned()))
    }

    /// Fetches the result of a run that has succeeded.
    async fn result_at(&self, call: &Call, poll: &mut Poll, url: Url) -> Result<Outcome, EngineFailure> {
        let limit = self.client.transfer_timeout();
        let ask = || -> Result<Request, EngineFailure> {
            let request = self.client.get(url.clone()).within(limit, limit);
            Ok(request.body_bytes_max(2 * call.result_bytes_max))
        };
        let read = |answer: Answer| match answer.status {
            200..300 if answer.is_web_page() => Err(web_page(&answer)),
            200..300 => Ok(answer),
            _ => Err(self.client.refusal(&answer)),
        };
        let answer = poll.until_read(&self.client, ask, read).await?;
        self.succeeded(&answer, call.result_bytes_max)
    }
}

fn path_and_query(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

/// The last part of a path, decoded.
fn last_segment(path: &str) -> Option<String> {
    let segment = path.trim_end_matches('/').rsplit('/').next().filter(|segment| !segment.is_empty())?;
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_last_part_of_a_path() {
        for (path, id) in [
            ("/jobs/17", Some("17")),
            ("/jobs/17/", Some("17")),
            ("/jobs/a%2Fb%20c", Some("a/b c")),
            ("/jobs/50%", Some("50%")),
            ("/jobs/%zz", Some("%zz")),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(last_segment(path).as_deref(), id, "{path}");
        }
    }
}
