//! Where spans go.

use secrecy::SecretString;

/// Where spans go, and of how many executions.
#[derive(Debug, Clone, Default)]
pub struct TracingSettings {
    /// Share of the executions that are traced, of those whose caller did not say; 0 to 1.
    pub sample_ratio: f64,
    pub exporters: Vec<ExporterSettings>,
}

/// One receiver of traces.
#[derive(Debug, Clone)]
pub struct ExporterSettings {
    pub name: String,
    /// The whole URL that OTLP over HTTP is posted to, such as `http://127.0.0.1:4318/v1/traces`.
    pub url: String,
    pub headers: Vec<(String, SecretString)>,
    pub dialect: TraceDialect,
}

/// What a receiver expects of the spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceDialect {
    /// All spans: execution, queue, attempt, call.
    Otlp,
    /// LangSmith: one root for the execution, one child for each attempt, with its attributes.
    Langsmith,
}
