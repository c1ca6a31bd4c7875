//! `[tracing]`: where spans go.

use super::checker::{Checker, is_base};
use super::raw::{ExporterRaw, ExporterType, Tracing};
use enginehouse_runtime::{ExporterSettings, TraceDialect, TracingSettings};
use secrecy::SecretString;

const OTLP: &str = "http://127.0.0.1:4318";
const LANGSMITH: &str = "https://api.smith.langchain.com";

pub(super) fn resolve(raw: &Tracing, checker: &mut Checker<'_>) -> TracingSettings {
    let exporters = raw.exporters.iter().filter_map(|(name, own)| exporter(name, own, checker)).collect();
    TracingSettings { sample_ratio: raw.sample_ratio.0, exporters }
}

fn exporter(name: &str, raw: &ExporterRaw, checker: &mut Checker<'_>) -> Option<ExporterSettings> {
    let path = format!("tracing/exporters/{name}");
    let langsmith = raw.r#type == ExporterType::Langsmith;
    let (base, below) = if langsmith { (LANGSMITH, "/otel/v1/traces") } else { (OTLP, "/v1/traces") };
    let url = match raw.url.as_ref().map_or(base, |url| url.0.as_str()) {
        text if is_base(text) => format!("{}{below}", text.trim_end_matches('/')),
        text => {
            let wanted = "http:// or https:// with host, without user, query and fragment";
            checker.fault(&format!("{path}/url"), format!("{text:?} is no base URL: {wanted}"));
            return None;
        }
    };
    let mut headers = checker.read_all(&raw.headers, &format!("{path}/headers"));
    checker.require(langsmith || raw.api_key.is_none(), &format!("{path}/api_key"), || {
        "is for LangSmith; give other receivers what they want in headers".to_owned()
    });
    checker.require(langsmith || raw.project.is_none(), &format!("{path}/project"), || {
        "is for LangSmith".to_owned()
    });
    checker.require(!langsmith || raw.api_key.is_some(), &path, || {
        "needs api_key, such as { env = \"LANGSMITH_API_KEY\" }".to_owned()
    });
    if let Some(key) = &raw.api_key {
        headers.push(("x-api-key".to_owned(), checker.read(key, &format!("{path}/api_key"))?));
    }
    if let Some(project) = &raw.project {
        headers.push(("langsmith-project".to_owned(), SecretString::from(project.0.as_str())));
    }
    let dialect = if langsmith { TraceDialect::Langsmith } else { TraceDialect::Otlp };
    Some(ExporterSettings { name: name.to_owned(), url, headers, dialect })
}
