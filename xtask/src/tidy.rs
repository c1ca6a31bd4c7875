//! `cargo xtask tidy`: what the compiler does not check: crate and room edges, circles, sizes, names, forbidden calls, links.
//!
//! Each rule is a function from text to findings, so that a planted fault shows in a test that the rule can fail.

mod circles;
mod manifests;
mod rooms;
mod source;
mod text;
mod words;

use crate::process::{output, root};
use anyhow::{Result, bail};
use std::process::Command;

const HELP: &str = "\
Check what the compiler does not: which crate may use which, and which room of runtime, files
that use each other in a circle, dependencies that nothing uses, lengths of files and functions,
names that say nothing, calls that would make a simulation differ, module docs, links in
Markdown, paths of one machine.

Usage: cargo xtask tidy
";

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    let files = check()?;
    println!("{files} files are tidy");
    Ok(())
}

/// Checks every file git knows or would take; gives how many there were.
pub(crate) fn check() -> Result<usize> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let listed = String::from_utf8(output(&mut list)?)?;
    let mut findings = Vec::new();
    let mut count = 0;
    let (mut sources, mut crates, mut workspace) = (Vec::new(), Vec::new(), String::new());
    let mut uses = rooms::Uses::new();
    for path in listed.lines() {
        // A file that was just deleted is still listed.
        let Ok(bytes) = std::fs::read(root().join(path)) else { continue };
        count += 1;
        let Ok(content) = String::from_utf8(bytes) else { continue };
        let mut found = text::check(path, &content);
        found.extend(words::check(path, &content));
        if path.ends_with(".rs") {
            found.extend(source::check(path, &content));
            found.extend(rooms::check(path, &content, &mut uses));
        }
        if path.ends_with(".md") {
            found.extend(text::links(path, &content, |target| root().join(target).exists()));
        }
        if path.starts_with("docs/decisions/") {
            found.extend(text::decision(&content));
        }
        if path.ends_with("Cargo.toml") {
            found.extend(manifests::check(path, &content));
        }
        findings.extend(found.into_iter().map(|finding| format!("{path}{finding}")));
        match path.rsplit_once('/') {
            _ if path.ends_with(".rs") => sources.push((path.to_owned(), content)),
            Some((folder, "Cargo.toml")) => crates.push((folder.to_owned(), content)),
            None if path == "Cargo.toml" => workspace = content,
            _ => {}
        }
    }
    findings.extend(circles::check(&sources));
    findings.extend(dependencies(&workspace, &crates, &sources));
    findings.extend(rooms::circle(uses));
    if !findings.is_empty() {
        bail!("{} findings:\n{}", findings.len(), findings.join("\n"));
    }
    Ok(count)
}

/// What the manifests name and nothing uses; crates and sources by their folder and path.
fn dependencies(workspace: &str, crates: &[(String, String)], sources: &[(String, String)]) -> Vec<String> {
    let mut findings = Vec::new();
    for (folder, manifest) in crates {
        // The examples of the whole are built by the crate whose manifest names their folder.
        let examples = manifest.contains("../../examples/");
        let own = sources.iter().filter(|(path, _)| {
            path.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
                || (examples && path.starts_with("examples/"))
        });
        let own: Vec<&str> = own.map(|(_, content)| content.as_str()).collect();
        let found = manifests::unused(manifest, &own);
        findings.extend(found.into_iter().map(|finding| format!("{folder}/Cargo.toml{finding}")));
    }
    let manifests: Vec<&str> = crates.iter().map(|(_, content)| content.as_str()).collect();
    findings.extend(
        manifests::untaken(workspace, &manifests).into_iter().map(|found| format!("Cargo.toml{found}")),
    );
    findings
}
