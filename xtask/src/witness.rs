//! Programs of others that the tests ask about what the service sends: an independent reader of the same standard.

use crate::process::{output, target_dir};
use crate::step_end::StepEnd;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// The Python packages, from PyPI: OpenTelemetry's own messages, to read what is exported, the verifier of the Standard
/// Webhooks project, and a server that speaks S3.
const PACKAGES: [&str; 3] =
    ["opentelemetry-proto==1.45.2", "standardwebhooks==1.1.0", "moto[s3,server]==5.2.5"];

/// A Python that has them, if one was installed.
pub(crate) fn python() -> Option<PathBuf> {
    let python = target_dir().join("witness-venv/bin/python");
    (marker().exists() && python.exists()).then(|| std::path::absolute(&python).unwrap_or(python))
}

/// Installs them below target/, once; skipped where there is no package index.
pub(crate) fn install() -> Result<StepEnd> {
    if python().is_some() {
        return Ok(StepEnd::Passed("was there".to_owned()));
    }
    match set_up() {
        Ok(()) => Ok(StepEnd::Passed(PACKAGES.join(" "))),
        Err(why) => Ok(StepEnd::Skipped(format!("tests that ask them say nothing: {why:#}"))),
    }
}

fn set_up() -> Result<()> {
    let venv = target_dir().join("witness-venv");
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    output(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&venv)).context("python3 -m venv")?;
    let mut pip = Command::new(venv.join("bin/pip"));
    output(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))
        .context("pip install")?;
    std::fs::write(marker(), "")?;
    Ok(())
}

/// There once all packages are; another list of them has another marker.
fn marker() -> PathBuf {
    target_dir().join("witness-venv").join(format!("installed-{}", PACKAGES.join("-")))
}
