//! From OpenMetrics to the older text format of Prometheus, which knows neither units, nor exemplars, nor an end mark, and
//! names a counter with its `_total`.

use std::fmt::Write;

/// What `promtool check metrics` and older servers read.
pub(crate) fn prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap_or((help, ""));
            let counts =
                lines.peek().is_some_and(|next| next.starts_with("# TYPE ") && next.ends_with(" counter"));
            let total = if counts { "_total" } else { "" };
            let _ = writeln!(text, "# HELP {name}{total} {words}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap_or((kind, "untyped"));
            let total = if kind == "counter" { "_total" } else { "" };
            let _ = writeln!(text, "# TYPE {name}{total} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(text, "{}", without_exemplar(line));
        }
    }
    text
}

/// The sample alone: an exemplar follows behind a `#` that stands in no label's quotes.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in line.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}
