//! `[webhooks.NAME]` and `[callbacks]`: who is told of events by HTTP.

use crate::config::checker::{Checker, is_base, is_name};
use crate::config::near_miss::near_miss;
use crate::config::secret::{Private, Secret};
use crate::config::types::{Flag, Span, Text, Texts, section};
use enginehouse_core::event::event_names;
use enginehouse_core::time::{MINUTE, SECOND};
use enginehouse_runtime::{
    Settings, WebhookEndpoint, WebhookPolicy, WebhookSecrets, WebhookSettings, names_private_address,
};
use std::collections::BTreeMap;

section! {
    /// A receiver of webhooks, signed as the Standard Webhooks specification says. Its name: 1 to 32 of `a-z A-Z 0-9 . _ -`.
    pub struct WebhookRaw {
        /// Where events are posted to.
        url: Option<Text> = None;
        /// The types of events it is told, such as `execution_failed` or `alert`; a wrong one is answered with the list. Empty: the ends of executions.
        events: Texts = Texts::default();
        /// Only executions of these engines, by name. Empty: of all.
        engines: Texts = Texts::default();
        /// Signs: `whsec_` and 24 to 64 bytes in Base64.
        secret: Option<Secret> = None;
        /// Signs as well, while receivers change from it to `secret`.
        previous_secret: Option<Secret> = None;
        /// More headers of every request, by name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
        /// Lets it be at an address that is not public, such as one of this machine or of a private network.
        allow_private: Flag = Flag(false);
        /// The longest that it may take for its answer.
        timeout: Span<100, { 5 * MINUTE }> = Span(15 * SECOND);
    }

    /// How an execution's own `callbackUrl` is called at its end, signed as the Standard Webhooks specification says.
    pub struct CallbacksRaw {
        /// Signs: `whsec_` and 24 to 64 bytes in Base64.
        secret: Option<Secret> = None;
        /// Signs as well, while receivers change from it to `secret`.
        previous_secret: Option<Secret> = None;
        /// Lets callers name addresses that are not public. Anyone who may submit can then make the service send requests within your network.
        allow_private: Flag = Flag(false);
        /// The longest that a receiver may take for its answer.
        timeout: Span<100, { 5 * MINUTE }> = Span(15 * SECOND);
    }
}

const NAME_CHARS_MAX: usize = 32;
/// The receiver's name of deliveries that go to a `callbackUrl`.
const TAKEN: &str = "callback";

/// `is_engine`: whether an engine of that name is configured.
pub(in crate::config) fn resolve(
    webhooks: &BTreeMap<String, WebhookRaw>,
    callbacks: Option<&CallbacksRaw>,
    is_engine: impl Fn(&str) -> bool,
    settings: &mut Settings,
    checker: &mut Checker<'_>,
) {
    let mut endpoints = Vec::new();
    for (name, own) in webhooks {
        endpoints.extend(endpoint(name, own, &is_engine, checker));
    }
    let callbacks = callbacks.and_then(|own| {
        let CallbacksRaw { secret, previous_secret, allow_private, timeout } = own;
        let secrets = secrets(secret, previous_secret, "callbacks", checker)?;
        Some(WebhookPolicy { secrets, allow_private: allow_private.0, timeout: timeout.0 })
    });
    settings.webhooks = WebhookSettings { endpoints, callbacks };
}

fn endpoint(
    name: &str,
    raw: &WebhookRaw,
    is_engine: impl Fn(&str) -> bool,
    checker: &mut Checker<'_>,
) -> Option<WebhookEndpoint> {
    let WebhookRaw { url, events, engines, secret, previous_secret, headers, allow_private, timeout } = raw;
    let path = format!("webhooks/{name}");
    let good = is_name(name, NAME_CHARS_MAX) && name != TAKEN;
    checker.require(good, &path, || {
        format!("is no name of a receiver: 1 to {NAME_CHARS_MAX} of a-z A-Z 0-9 . _ -, and not {TAKEN:?}")
    });
    let url = url.as_ref().map(|url| url.0.clone()).filter(|url| is_base(url));
    checker.require(url.is_some(), &format!("{path}/url"), || {
        "must be an http:// or https:// URL without user, query and fragment".to_owned()
    });
    if let Some(url) = url.as_ref().filter(|url| names_private_address(url) && !allow_private.0) {
        let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        checker.fault(
            &format!("{path}/url"),
            format!(
                "{} is no public address; to send there all the same, set webhooks.{name}.allow_private = true",
                host.unwrap_or_default()
            ),
        );
    }
    check_events(&events.0, &path, checker);
    let secrets = secrets(secret, previous_secret, &path, checker);
    let headers = checker.read_all(headers, &format!("{path}/headers"));
    for engine in &engines.0 {
        checker.require(is_engine(engine), &format!("{path}/engines"), || {
            format!("{engine:?} is not the name of a configured engine")
        });
    }
    let policy = WebhookPolicy { secrets: secrets?, allow_private: allow_private.0, timeout: timeout.0 };
    Some(WebhookEndpoint {
        name: name.to_owned(),
        url: url?,
        events: events.0.clone(),
        engines: engines.0.clone(),
        headers,
        policy,
    })
}

/// A name that no event has would match nothing, in silence.
fn check_events(events: &[String], path: &str, checker: &mut Checker<'_>) {
    let names = event_names();
    for event in events {
        checker.require(names.contains(&event.as_str()), &format!("{path}/events"), || {
            let near = near_miss(event, names.iter().copied());
            format!("{event:?} is not an event type{near}; there are: {}", names.join(", "))
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
