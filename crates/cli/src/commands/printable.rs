//! What callers and engines chose, made fit to be shown: what a reader cannot see, or a terminal would obey, is written as its
//! number. Two ids that look alike can be told apart, and no text reorders, hides or colours what stands beside it.

use std::fmt;
use std::io::{self, Write};

/// Characters that show nothing, or change how others are shown: controls, marks of direction, joiners, selectors, tags and
/// fillers. Spaces of any width are not among them, for texts use them.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
            | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn escaped(text: &str, kept: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && !kept(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Text of several lines.
pub(crate) fn printable(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// Text of one line, such as a cell of a table.
pub(crate) fn one_line(text: &str) -> String {
    escaped(text, |_| false)
}

/// JSON with the same meaning: hidden characters can only stand in its strings, where they have numbers of their own.
pub(crate) fn json(text: &str) -> String {
    if !text.chars().any(|c| is_hidden(c) && !c.is_ascii_control() || c == '\u{7f}') {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // JSON's own line ends and indents are the only controls outside of strings.
        if is_hidden(c) && !matches!(c, '\n' | '\r' | '\t') {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// An id as one word of a command for a shell.
pub(crate) fn shell_word(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/@%+=,-".contains(&b);
    if id.starts_with('-') {
        return format!("-- {}", quoted(id));
    }
    if id.bytes().all(plain) { id.to_owned() } else { quoted(id) }
}

fn quoted(id: &str) -> String {
    format!("'{}'", id.replace('\'', r"'\''"))
}

/// Says something to people, on standard error.
macro_rules! tell {
    ($($said:tt)*) => {
        $crate::commands::printable::to_people(format_args!($($said)*))
    };
}
pub(crate) use tell;

pub(crate) fn to_people(said: fmt::Arguments<'_>) {
    // No one may be listening, which is no reason to fail.
    let _ = writeln!(io::stderr(), "{}", printable(&said.to_string()));
}

/// Standard error for log lines. The colours of a line are the log's own; escapes in values are taken care of before.
pub(crate) struct LogLines {
    pub(crate) json: bool,
}

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) if self.json => io::stderr().write_all(json(text).as_bytes())?,
            Ok(text) => io::stderr().write_all(escaped(text, |c| c.is_ascii_control()).as_bytes())?,
            Err(_) => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_told() {
        for (text, shown) in [
            ("throughput-Low Load-0", "throughput-Low Load-0"),
            ("größe 漢字\u{3000}🧪", "größe 漢字\u{3000}🧪"),
            ("u\u{308}", "u\u{308}"),
            ("a\u{202e}b", r"a\u{202e}b"),
            ("a\u{200b}\u{feff}", r"a\u{200b}\u{feff}"),
            ("\u{2066}x\u{2069}", r"\u{2066}x\u{2069}"),
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
            ("\u{9b}0m", r"\u{9b}0m"),
            ("\u{e0041}", r"\u{e0041}"),
            ("\u{3164}\u{ad}", r"\u{3164}\u{ad}"),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
        }
        assert_eq!((printable("a\nb\r"), one_line("a\nb")), ("a\nb\\u{d}".to_owned(), r"a\u{a}b".to_owned()));
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"id\u{200b}": "a\u{202e}b\u{7f}\u{e0041}\u{85}\n", "plain": "größe"});
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = json(&text);
            assert!(shown.chars().all(|c| !is_hidden(c) || c == '\n'), "{shown:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn an_id_is_one_word() {
        for (id, word) in [
            ("order-17:2026.11_x", "order-17:2026.11_x"),
            ("throughput-Low Load-0", "'throughput-Low Load-0'"),
            ("it's", r"'it'\''s'"),
            ("-a", "-- '-a'"),
            ("$(x)", "'$(x)'"),
        ] {
            assert_eq!(shell_word(id), word);
        }
    }
}
