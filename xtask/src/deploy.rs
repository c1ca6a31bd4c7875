//! The files under `deploy/`, each checked by the program that reads it.

use crate::process::{output, root, target_dir, works};
use crate::step_end::StepEnd;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNIT: &str = "enginehouse.service";
/// Where the unit expects the program.
const PROGRAM: &str = "/usr/local/bin/enginehouse";
/// The most that `systemd-analyze security` may find exposed, in tenths: 100 is everything.
const EXPOSED_MAX: u32 = 20;
const RULES: &str = "prometheus-rules.yml";
const PROXY: &str = "nginx.conf";
/// Where the proxy's certificate lies.
const CERTIFICATES: &str = "/etc/letsencrypt/live/enginehouse.example.com";

/// A program, how it is asked whether it is there, and what it checks.
type Check = (&'static str, &'static str, fn(&Path) -> Result<()>);

/// Checks what the tools at hand can check, and names those that are not there.
pub(crate) fn check() -> Result<StepEnd> {
    let dir = target_dir().join("deploy");
    std::fs::create_dir_all(&dir)?;
    let (mut checked, mut missing) = (Vec::new(), Vec::new());
    let checks: [Check; 3] =
        [("systemd-analyze", "--version", unit), ("promtool", "--version", rules), ("nginx", "-v", proxy)];
    for (tool, version, check) in checks {
        if works(Command::new(tool).arg(version)) {
            check(&dir).with_context(|| format!("deploy/, read by {tool}"))?;
            checked.push(tool);
        } else {
            missing.push(tool);
        }
    }
    known_metrics()?;
    if !missing.is_empty() {
        return Ok(StepEnd::Skipped(format!(
            "{} not installed; by {}",
            missing.join(", "),
            checked.join(", ")
        )));
    }
    Ok(StepEnd::Passed(format!("by {}", checked.join(", "))))
}

fn file(name: &str) -> PathBuf {
    root().join("deploy").join(name)
}

/// A copy of a file with other paths, for this machine.
fn copied(dir: &Path, name: &str, paths: &[(&str, &str)]) -> Result<PathBuf> {
    let mut text = std::fs::read_to_string(file(name)).with_context(|| name.to_owned())?;
    for (from, to) in paths {
        if !text.contains(from) {
            bail!("{name} does not name {from}");
        }
        text = text.replace(from, to);
    }
    let copy = dir.join(name);
    std::fs::write(&copy, text)?;
    Ok(copy)
}

fn unit(dir: &Path) -> Result<()> {
    // The check looks whether the program can be run; any will do.
    let unit = copied(dir, UNIT, &[(PROGRAM, "/bin/true")])?;
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output()?;
    // A key that it does not know is only worth a warning to it.
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let of_unit: Vec<&str> = said.lines().filter(|line| line.contains(UNIT)).collect();
    if !verified.status.success() || !of_unit.is_empty() {
        bail!("systemd-analyze verify: {}\n{}", verified.status, of_unit.join("\n"));
    }
    let exposed = format!("--threshold={EXPOSED_MAX}");
    let security = ["security", "--offline=true", "--no-pager", &exposed];
    output(Command::new("systemd-analyze").args(security).arg(&unit)).map(drop)
}

fn rules(_: &Path) -> Result<()> {
    output(Command::new("promtool").args(["check", "rules"]).arg(file(RULES))).map(drop)
}

/// Every metric that a rule names is one that the service has.
fn known_metrics() -> Result<()> {
    let known = std::fs::read_to_string(root().join("docs/METRICS.md"))?;
    let rules = std::fs::read_to_string(file(RULES))?;
    let names: BTreeSet<&str> = rules
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| ["enginehouse_", "process_"].iter().any(|begins| word.starts_with(begins)))
        .map(|word| word.trim_end_matches("_bucket"))
        .collect();
    let unknown: Vec<&str> = names.into_iter().filter(|name| !known.contains(&format!("`{name}`"))).collect();
    if !unknown.is_empty() {
        bail!("{RULES} names metrics that docs/METRICS.md does not have: {}", unknown.join(", "));
    }
    Ok(())
}

fn proxy(dir: &Path) -> Result<()> {
    let here = dir.to_str().context("a path that is not text")?;
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
    let (key, certificate) = (format!("{here}/privkey.pem"), format!("{here}/fullchain.pem"));
    output(Command::new("openssl").args(request).args(["-keyout", &key, "-out", &certificate]))?;
    let site = copied(dir, PROXY, &[(CERTIFICATES, here)])?;
    let whole = dir.join("whole.conf");
    let text = format!(
        "pid {here}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; include {}; }}\n",
        site.display()
    );
    std::fs::write(&whole, text)?;
    output(Command::new("nginx").args(["-t", "-q", "-p", here, "-c"]).arg(whole)).map(drop)
}
