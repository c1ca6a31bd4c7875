//! `[tracing]`: where spans go.

use crate::config::checker::{Checker, is_base};
use crate::config::secret::{Private, Secret};
use crate::config::types::{Ratio, Text, choice, section};
use enginehouse_runtime::{ExporterSettings, Settings, TraceDialect, TracingSettings};
use secrecy::SecretString;
use std::collections::BTreeMap;

section! {
    /// Where the spans of ended executions go. A caller's `traceparent` is kept and handed on to the engine in any case.
    pub struct Tracing {
        /// Share of the executions that are traced, of those whose caller did not say by a `traceparent`.
        sample_ratio: Ratio = Ratio(1.0);
        /// Receivers of traces, by a name of yours. None: nothing is exported.
        exporters: BTreeMap<String, ExporterRaw> = BTreeMap::new();
    }

    /// A receiver of traces.
    pub struct ExporterRaw {
        /// What it is, and so what it is told.
        r#type: ExporterType = ExporterType::Otlp;
        /// Its base URL; `/v1/traces` is added, for LangSmith `/otel/v1/traces`. Absent: `http://127.0.0.1:4318`, of LangSmith `https://api.smith.langchain.com`.
        url: Option<Text> = None;
        /// Headers of every request, by name.
        headers: BTreeMap<String, Private> = BTreeMap::new();
        /// LangSmith's API key.
        api_key: Option<Secret> = None;
        /// The LangSmith project. Absent: LangSmith's default one.
        project: Option<Text> = None;
    }
}

choice! {
    /// What a receiver of traces is.
    pub enum ExporterType {
        /// Any that takes OpenTelemetry's OTLP over HTTP: a collector, Jaeger, Tempo and others.
        Otlp "otlp",
        /// LangSmith: one root for each execution and one child for each attempt.
        Langsmith "langsmith",
    }
}

const OTLP: &str = "http://127.0.0.1:4318";
const LANGSMITH: &str = "https://api.smith.langchain.com";

pub(in crate::config) fn resolve(raw: &Tracing, settings: &mut Settings, checker: &mut Checker<'_>) {
    let Tracing { sample_ratio, exporters } = raw;
    let exporters = exporters.iter().filter_map(|(name, own)| exporter(name, own, checker)).collect();
    settings.tracing = TracingSettings { sample_ratio: sample_ratio.0, exporters };
}

fn exporter(name: &str, raw: &ExporterRaw, checker: &mut Checker<'_>) -> Option<ExporterSettings> {
    let ExporterRaw { r#type: kind, url, headers, api_key, project } = raw;
    let path = format!("tracing/exporters/{name}");
    let langsmith = *kind == ExporterType::Langsmith;
    let (base, below) = if langsmith { (LANGSMITH, "/otel/v1/traces") } else { (OTLP, "/v1/traces") };
    let url = match url.as_ref().map_or(base, |url| url.0.as_str()) {
        text if is_base(text) => format!("{}{below}", text.trim_end_matches('/')),
        text => {
            let wanted = "http:// or https:// with host, without user, query and fragment";
            checker.fault(&format!("{path}/url"), format!("{text:?} is not a base URL: {wanted}"));
            return None;
        }
    };
    let mut headers = checker.read_all(headers, &format!("{path}/headers"));
    checker.require(langsmith || api_key.is_none(), &format!("{path}/api_key"), || {
        "is for LangSmith; give other receivers what they want in headers".to_owned()
    });
    checker.require(langsmith || project.is_none(), &format!("{path}/project"), || {
        "is for LangSmith".to_owned()
    });
    checker.require(!langsmith || api_key.is_some(), &path, || {
        "needs api_key, such as { env = \"LANGSMITH_API_KEY\" }".to_owned()
    });
    if let Some(key) = api_key {
        headers.push(("x-api-key".to_owned(), checker.read(key, &format!("{path}/api_key"))?));
    }
    if let Some(project) = project {
        headers.push(("langsmith-project".to_owned(), SecretString::from(project.0.as_str())));
    }
    let dialect = if langsmith { TraceDialect::Langsmith } else { TraceDialect::Otlp };
    Some(ExporterSettings { name: name.to_owned(), url, headers, dialect })
}
