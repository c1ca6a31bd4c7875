//! docs/ERRORS.md and `/docs/errors`, both made from the table of codes.

use crate::Code;
use std::fmt::Write;

/// docs/ERRORS.md.
#[must_use]
pub fn errors_markdown() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         Every error answer is an RFC 9457 problem (`application/problem+json`):\n\n\
         ```json\n\
         {\"type\": \"/docs/errors#invalid_field\", \"title\": \"A field has an invalid value\", \"status\": 400,\n \
         \"detail\": \"/retry/factor: expected a number\", \"code\": \"invalid_field\",\n \
         \"errors\": [{\"pointer\": \"/retry/factor\", \"code\": \"invalid_field\", \"detail\": \"expected a number\"}],\n \
         \"requestId\": \"...\"}\n\
         ```\n\n\
         `code` is stable and never changes its meaning; `title` and `detail` are for people. `pointer` is an RFC 6901 JSON\n\
         pointer into the body; a query parameter is written `?name`, a header `Name:`. `Retry-After` is sent where trying\n\
         again makes sense.\n\n\
         This page is made from the table in `crates/api/src/error.rs`.\n\n\
         | code | status | meaning | what to do |\n|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let (name, status, title, help) = (code.as_str(), code.status(), code.title(), code.help());
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| <a id=\"{name}\"></a>`{name}` | {status} | {title} | {help} |");
    }
    page
}

/// The same as a page of its own, to which the `type` of a problem leads.
#[must_use]
pub fn errors_html() -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Enginehouse error codes</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
         table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.4rem .6rem;text-align:left;\
         vertical-align:top}tr:target{background:#fff3c4}code{white-space:nowrap}</style></head><body>\n\
         <h1>Error codes</h1>\n\
         <p>Every error answer is an RFC 9457 problem; its <code>code</code> is one of these and never changes its meaning.</p>\n\
         <table><thead><tr><th>code</th><th>status</th><th>meaning</th><th>what to do</th></tr></thead><tbody>\n",
    );
    for code in Code::ALL {
        let (name, status) = (code.as_str(), code.status());
        let (title, help) = (escape(code.title()), escape(code.help()));
        let _ = writeln!(
            page,
            "<tr id=\"{name}\"><td><code>{name}</code></td><td>{status}</td><td>{title}</td><td>{help}</td></tr>"
        );
    }
    page.push_str("</tbody></table></body></html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pages_name_every_code_once() {
        let (markdown, html) = (errors_markdown(), errors_html());
        for code in Code::ALL {
            let anchor = format!("id=\"{}\"", code.as_str());
            assert_eq!(markdown.matches(&anchor).count(), 1, "{anchor}");
            assert_eq!(html.matches(&anchor).count(), 1, "{anchor}");
            assert!(html.contains(&escape(code.help())), "{anchor}");
        }
    }

    #[test]
    fn codes_have_their_own_words_and_lie_by_status() {
        let statuses: Vec<u16> = Code::ALL.iter().map(|code| code.status()).collect();
        assert!(statuses.iter().all(|status| (400..600).contains(status)));
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }
}
