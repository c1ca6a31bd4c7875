//! `cargo xtask docs`: the pages of docs/ that are printed from the code, and the check that they are current.

use crate::process::{cargo, output, root};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const HELP: &str = "\
Print the generated pages of docs/: openapi.json, ERRORS.md, CONFIG.md, METRICS.md,
ALERTS.md.

Usage: cargo xtask docs [--check]

  --check   change nothing; fail when a page differs from what the code says
";

/// Each page with the crate and the example that prints it.
const PAGES: [(&str, &str, &str); 5] = [
    ("openapi.json", "enginehouse-server", "openapi"),
    ("ERRORS.md", "enginehouse-api", "errors_md"),
    ("CONFIG.md", "enginehouse", "config_md"),
    ("METRICS.md", "enginehouse-runtime", "metrics_md"),
    ("ALERTS.md", "enginehouse-runtime", "alerts_md"),
];

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    if args.iter().any(|arg| arg == "--check") {
        return check();
    }
    for page in PAGES {
        let text = printed(page)?;
        let path = place(page.0);
        if std::fs::read(&path).ok().as_deref() != Some(text.as_slice()) {
            std::fs::write(&path, &text).with_context(|| path.display().to_string())?;
            println!("docs/{} is new", page.0);
        }
    }
    Ok(())
}

/// Fails when a committed page is not what the code prints.
pub(crate) fn check() -> Result<()> {
    let mut stale = Vec::new();
    for page in PAGES {
        let wanted = printed(page)?;
        let found = std::fs::read(place(page.0)).unwrap_or_default();
        if wanted == found {
            continue;
        }
        let (wanted, found) =
            (String::from_utf8_lossy(&wanted).into_owned(), String::from_utf8_lossy(&found).into_owned());
        let line = wanted.lines().zip(found.lines()).take_while(|(a, b)| a == b).count();
        let shown = |text: &str| text.lines().nth(line).unwrap_or("(nothing)").to_owned();
        stale.push(format!(
            "docs/{}:{}\n  has   {}\n  wants {}",
            page.0,
            line + 1,
            shown(&found),
            shown(&wanted)
        ));
    }
    if !stale.is_empty() {
        bail!("run `cargo xtask docs`; these pages differ from the code:\n{}", stale.join("\n"));
    }
    Ok(())
}

fn printed((_, package, example): (&str, &str, &str)) -> Result<Vec<u8>> {
    output(&mut cargo(&["run", "--quiet", "--locked", "--package", package, "--example", example]))
}

fn place(page: &str) -> PathBuf {
    root().join("docs").join(page)
}
