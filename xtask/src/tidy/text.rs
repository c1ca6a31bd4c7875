//! Rules for every text file, and for Markdown.

/// Beginnings of paths and names that belong to one machine or one network, split so that this file is clean itself.
const PRIVATE: [(&str, &str); 4] = [("/ro", "ot/"), ("/wo", "rk/"), ("/ho", "me/"), ("artifact", "ory")];
/// What a page of docs/decisions/ must hold.
const DECISION_PARTS: [&str; 3] = ["## Context", "## Decision", "## Consequences"];

pub(super) fn check(path: &str, content: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if content.contains('\r') {
        findings.push(": has carriage returns".to_owned());
    }
    if !content.is_empty() && !content.ends_with('\n') {
        findings.push(": does not end with a line break".to_owned());
    }
    for (index, line) in content.lines().enumerate() {
        let line_number = index + 1;
        // A path in a test may be made up; its user is then called so.
        let private = PRIVATE.iter().map(|(a, b)| format!("{a}{b}")).find(|name| {
            line.match_indices(name.as_str()).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let made_up = line[at..].starts_with("/home/user");
                !made_up && before.is_none_or(|c| !c.is_alphanumeric() && c != '.' && c != '}')
            })
        });
        if let Some(name) = private.filter(|_| path != "Cargo.lock") {
            findings.push(format!(":{line_number}: {name} belongs to one machine"));
        }
        if path.ends_with(".rs") && line.ends_with(' ') {
            findings.push(format!(":{line_number}: ends with a space"));
        }
    }
    findings
}

/// Relative links that lead nowhere; `exists` is asked for paths from the root of the repository.
pub(super) fn links(path: &str, content: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    let mut code = false;
    for (index, line) in content.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        for part in line.split("](").skip(1) {
            let Some((target, _)) = part.split_once(')') else { continue };
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !exists(&joined(folder, target)) {
                findings.push(format!(":{}: the link {target} leads nowhere", index + 1));
            }
        }
    }
    findings
}

fn joined(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What is missing in a page about a decision.
pub(super) fn decision(content: &str) -> Vec<String> {
    let missing = DECISION_PARTS.iter().filter(|part| !content.lines().any(|line| line == **part));
    missing.map(|part| format!(": has no part {part:?}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_faults_are_found() {
        let private = format!("see {}{}x\n", PRIVATE[0].0, PRIVATE[0].1);
        for (content, part) in
            [("a\r\n", "carriage"), ("a", "line break"), (private.as_str(), "one machine"), ("a \n", "space")]
        {
            let findings = check("a.rs", content);
            assert!(findings.iter().any(|finding| finding.contains(part)), "{content:?}: {findings:?}");
        }
        assert_eq!(check("a.rs", "join(\"/home/user/x\")\n"), Vec::<String>::new());
        assert_eq!(decision("## Context\n\n## Decision\n").len(), 1);
    }

    #[test]
    fn links_are_followed_from_where_they_stand() {
        let page = "[a](../a.md) [b](b.md#part) [c](https://x.test) [d](#here)\n```\n[e](nowhere)\n```\n";
        let exists = |path: &str| path == "a.md";
        let findings = links("docs/page.md", page, exists);
        assert_eq!(findings, [":1: the link b.md leads nowhere"]);
    }
}
