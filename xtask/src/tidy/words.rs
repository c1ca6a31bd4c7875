//! Words that make a text hard to read, with what to write instead.
//!
//! The rule looks at comments and doc comments (help texts and the OpenAPI document are made of these), at texts between quotes
//! outside of tests, and at the guides. docs/STYLE.md explains it.

/// The word or phrase in lower case, and what to write.
const WORDS: [(&str, &str); 22] = [
    ("anew", "again"),
    ("as it were", "nothing"),
    ("by and by", "over time"),
    ("for ever", "forever"),
    ("for want of", "for lack of"),
    ("henceforth", "from now on"),
    ("is no base url", "is not a base URL"),
    ("is no json", "is not valid JSON"),
    ("is no number", "is not a number"),
    ("is no type", "is not a type"),
    ("is no url", "is not a URL"),
    ("nobody", "no one, or who it is: no node, no caller"),
    ("of late", "recently"),
    ("ought", "should"),
    ("somebody", "someone, or who it is: an operator, a caller"),
    ("thereby", "so"),
    ("therein", "in it"),
    ("those who will wonder", "what it is for"),
    ("to wit", "namely"),
    ("whereby", "by which"),
    ("whoever", "who it is: the caller, the scheduler, anyone who"),
    ("whosoever", "who it is"),
];

/// Findings in one file: the line and what to write.
pub(super) fn check(path: &str, content: &str) -> Vec<String> {
    let rust = path.ends_with(".rs");
    let guide = path.ends_with(".md") && !path.starts_with("docs/decisions/") && path != "CHANGELOG.md";
    if !(rust || guide) || path == "xtask/src/tidy/words.rs" {
        return Vec::new();
    }
    let test = path.contains("/tests/") || path.ends_with("/tests.rs");
    let mut findings = Vec::new();
    let mut in_tests = test;
    for (index, line) in content.lines().enumerate() {
        in_tests |= line == "#[cfg(test)]";
        let text = if rust { read_by_people(line, in_tests) } else { line.to_owned() };
        let text = text.to_lowercase();
        for (word, instead) in WORDS {
            if stands_in(&text, word) {
                findings.push(format!(":{}: {word:?}: write {instead:?}", index + 1));
            }
        }
    }
    findings
}

/// What people read of a line of Rust: its comment, and the texts between quotes where these are not a test's.
fn read_by_people(line: &str, in_tests: bool) -> String {
    if let Some(at) = line.find("//").filter(|at| !line[..*at].ends_with(':')) {
        return line[at..].to_owned();
    }
    if in_tests {
        return String::new();
    }
    line.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ")
}

/// Whether a phrase stands in a text as whole words.
fn stands_in(text: &str, phrase: &str) -> bool {
    let whole = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    text.match_indices(phrase).any(|(at, _)| {
        whole(text[..at].chars().next_back()) && whole(text[at + phrase.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_list_is_found_where_people_read_it() {
        let hits = [
            ("crates/core/src/a.rs", "/// Reads the queue anew."),
            ("crates/core/src/a.rs", "let a = 1; // Whoever asks is told."),
            ("crates/cli/src/a.rs", "    format!(\"{text} is no JSON\")"),
            ("crates/cli/tests/it/a.rs", "// Somebody else has its port."),
            ("docs/OPERATIONS.md", "It failed for want of memory."),
        ];
        for (path, line) in hits {
            let found = check(path, &format!("\n{line}\n"));
            assert_eq!(found.len(), 1, "{path}: {line}: {found:?}");
            assert!(found[0].starts_with(":2: "), "{found:?}");
        }
    }

    #[test]
    fn other_words_other_places_and_names_are_left_alone() {
        let fine = [
            ("crates/core/src/a.rs", "/// What is thought of: plateau, oughtn, manewer"),
            ("crates/core/src/a.rs", "let nobody = Caller::nobody();"),
            ("crates/core/src/a.rs", "let url = \"https://of.example/of-late\";"),
            ("crates/cli/tests/it/a.rs", "serve.env(\"ID\", \"somebody\")"),
            ("docs/decisions/001.md", "It begins anew."),
            ("CHANGELOG.md", "It begins anew."),
        ];
        for (path, line) in fine {
            assert_eq!(check(path, line), Vec::<String>::new(), "{path}: {line}");
        }
    }
}
