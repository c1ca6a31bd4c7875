//! Who is told of events by HTTP.

use super::checker::{Checker, is_base, is_name};
use super::raw::{Engines, Raw, WebhookRaw};
use super::secret::Secret;
use enginehouse_core::event::event_names;
use enginehouse_runtime::{
    WebhookEndpoint, WebhookPolicy, WebhookSecrets, WebhookSettings, names_private_address,
};

const NAME_CHARS_MAX: usize = 32;
/// The receiver's name of deliveries that go to a `callbackUrl`.
const TAKEN: &str = "callback";

pub(super) fn resolve(raw: &Raw, checker: &mut Checker<'_>) -> WebhookSettings {
    let mut endpoints = Vec::new();
    for (name, own) in &raw.webhooks {
        endpoints.extend(endpoint(name, own, &raw.engines, checker));
    }
    let callbacks = raw.callbacks.as_ref().and_then(|own| {
        let secrets = secrets(&own.secret, &own.previous_secret, "callbacks", checker)?;
        Some(WebhookPolicy { secrets, allow_private: own.allow_private.0, timeout: own.timeout.0 })
    });
    WebhookSettings { endpoints, callbacks }
}

fn endpoint(
    name: &str,
    raw: &WebhookRaw,
    engines: &Engines,
    checker: &mut Checker<'_>,
) -> Option<WebhookEndpoint> {
    let path = format!("webhooks/{name}");
    let good = is_name(name, NAME_CHARS_MAX) && name != TAKEN;
    checker.require(good, &path, || {
        format!("is no name of a receiver: 1 to {NAME_CHARS_MAX} of a-z A-Z 0-9 . _ -, and not {TAKEN:?}")
    });
    let url = raw.url.as_ref().map(|url| url.0.clone()).filter(|url| is_base(url));
    checker.require(url.is_some(), &format!("{path}/url"), || {
        "must be an http:// or https:// URL without user, query and fragment".to_owned()
    });
    if let Some(url) = url.as_ref().filter(|url| names_private_address(url) && !raw.allow_private.0) {
        let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        checker.fault(
            &format!("{path}/url"),
            format!(
                "{} is no public address; to send there all the same, set webhooks.{name}.allow_private = true",
                host.unwrap_or_default()
            ),
        );
    }
    check_events(&raw.events.0, &path, checker);
    let secrets = secrets(&raw.secret, &raw.previous_secret, &path, checker);
    let headers = checker.read_all(&raw.headers, &format!("{path}/headers"));
    for engine in &raw.engines.0 {
        checker.require(engines.0.contains_key(engine), &format!("{path}/engines"), || {
            format!("{engine:?} is not the name of a configured engine")
        });
    }
    let policy =
        WebhookPolicy { secrets: secrets?, allow_private: raw.allow_private.0, timeout: raw.timeout.0 };
    Some(WebhookEndpoint {
        name: name.to_owned(),
        url: url?,
        events: raw.events.0.clone(),
        engines: raw.engines.0.clone(),
        headers,
        policy,
    })
}

/// The name of no event would match nothing, without a word.
fn check_events(events: &[String], path: &str, checker: &mut Checker<'_>) {
    let names = event_names();
    for event in events {
        checker.require(names.contains(&event.as_str()), &format!("{path}/events"), || {
            format!("{event:?} is no type of event; there are: {}", names.join(", "))
        });
    }
}

fn secrets(
    secret: &Option<Secret>,
    previous: &Option<Secret>,
    path: &str,
    checker: &mut Checker<'_>,
) -> Option<WebhookSecrets> {
    let Some(newest) = secret else {
        checker.fault(
            &format!("{path}/secret"),
            "is missing: receivers know by it who speaks; such as { env = \"WEBHOOK_SECRET\" }",
        );
        return None;
    };
    let mut texts = vec![checker.read(newest, &format!("{path}/secret"))?];
    if let Some(previous) = previous {
        texts.push(checker.read(previous, &format!("{path}/previous_secret"))?);
    }
    match WebhookSecrets::new(&texts) {
        Ok(secrets) => Some(secrets),
        Err(why) => {
            checker.fault(&format!("{path}/secret"), format!("a secret {why}"));
            None
        }
    }
}
