//! Keys of the type `n8n`.

use crate::config::checker::Checker;
use crate::config::secret::Private;
use crate::config::types::{Text, choice, section};
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::{N8nConfig, N8nFiles, N8nMode, N8nWebhook};
use std::collections::BTreeMap;

section! {
    /// Keys of the type `n8n`. The API key is sent as `X-N8N-API-KEY`, and never to a webhook.
    pub struct N8nRaw {
        /// How workflows are called, by their id. Others are asked for through n8n's API and called by what they say.
        workflows: BTreeMap<String, WebhookRaw> = BTreeMap::new();
        /// Base URL of the webhooks, where they are not called at the endpoint (n8n's `WEBHOOK_URL`, a webhook processor of its own). For an engine with one endpoint.
        webhook_url: Option<Text> = None;
        /// The first part of a webhook's path, as n8n's `N8N_ENDPOINT_WEBHOOK` says.
        webhook_prefix: Text = Text("webhook".to_owned());
        /// What a result says of the files of its items, under `$files` beside what they say themselves.
        files: FilesWord = FilesWord::Metadata;
    }

    /// The webhook of one workflow.
    pub struct WebhookRaw {
        /// What follows `/webhook/` in its URL.
        path: Option<Text> = None;
        /// How its execution is known: the webhook's answer holds `executionId` (`track`), a node behind it answers with it (`ack`), or it is found by the header `x-execution-key` (`lookup`).
        mode: ModeWord = ModeWord::Track;
        /// What the webhook's own authentication asks for, by header name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
    }
}

choice! {
    /// How an n8n execution is known.
    pub enum ModeWord {
        /// The webhook answers at once with the id.
        Track "track",
        /// A node behind it answers with the id.
        Ack "ack",
        /// It is found by a header.
        Lookup "lookup",
    }

    /// What a result says of files.
    pub enum FilesWord {
        /// Name, type and size.
        Metadata "metadata",
        /// Their bytes as well, as base64, where n8n keeps them with the execution (`N8N_DEFAULT_BINARY_DATA_MODE=default`).
        Base64 "base64",
    }
}

pub(super) fn resolve(
    raw: &N8nRaw,
    http: HttpSettings,
    allow_inline: bool,
    path: &str,
    checker: &mut Checker<'_>,
) -> N8nConfig {
    let N8nRaw { workflows, webhook_url, webhook_prefix, files } = raw;
    N8nConfig {
        workflows: webhooks(workflows, path, checker),
        allow_inline,
        webhook_url: webhook_url.as_ref().map(|url| url.0.clone()),
        webhook_prefix: webhook_prefix.0.clone(),
        files: match files {
            FilesWord::Metadata => N8nFiles::Metadata,
            FilesWord::Base64 => N8nFiles::Base64,
        },
        ..N8nConfig::new(http)
    }
}

fn webhooks(
    raw: &BTreeMap<String, WebhookRaw>,
    path: &str,
    checker: &mut Checker<'_>,
) -> BTreeMap<String, N8nWebhook> {
    let mut webhooks = BTreeMap::new();
    for (id, raw) in raw {
        let WebhookRaw { path: hook, mode, headers } = raw;
        let at = format!("{path}/workflows/{id}");
        let Some(hook) = hook else {
            checker.fault(&format!("{at}/path"), "is missing: what follows /webhook/ in the workflow's URL");
            continue;
        };
        let mode = match mode {
            ModeWord::Track => N8nMode::Track,
            ModeWord::Ack => N8nMode::Ack,
            ModeWord::Lookup => N8nMode::Lookup,
        };
        let headers = checker.read_all(headers, &format!("{at}/headers"));
        webhooks.insert(id.clone(), N8nWebhook { path: hook.0.clone(), mode, headers });
    }
    webhooks
}
