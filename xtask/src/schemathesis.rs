//! The API against its own OpenAPI document: schemathesis makes up requests and checks every answer.

use crate::e2e::house::House;
use crate::process::{output, run, target_dir};
use crate::step_end::StepEnd;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "4.32.5";

/// Runs the service with the demo engine and lets schemathesis at it; skipped where it cannot be installed.
pub(crate) fn check() -> Result<StepEnd> {
    let program = match installed() {
        Ok(program) => program,
        Err(why) => return Ok(StepEnd::Skipped(format!("schemathesis could not be installed: {why:#}"))),
    };
    let dir = target_dir().join("schemathesis");
    let house = House::start(&dir, "[engines.demo]\ntype = \"demo\"\n", &[])?;
    let key = house.key().to_owned();
    let mut command = Command::new(program);
    command.current_dir(&dir).args([
        "run",
        &format!("{}/openapi.json", house.url()),
        "--header",
        &format!("Authorization: Bearer {key}"),
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance",
        // A stream of events ends when its execution does, or never.
        "--exclude-path-regex",
        "/events$",
        "--max-examples",
        "25",
        "--request-timeout",
        "20",
        "--seed",
        "20260101",
        "--workers",
        "1",
        "--no-color",
    ]);
    let result = run(&mut command);
    house.stop()?;
    result.map(|()| StepEnd::Passed(String::new()))
}

/// The program, in an environment of its own below target/.
fn installed() -> Result<PathBuf> {
    let venv = target_dir().join("schemathesis-venv");
    let program = venv.join("bin/schemathesis");
    let marker = venv.join(format!("installed-{VERSION}"));
    if marker.exists() && program.exists() {
        return Ok(program);
    }
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    output(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&venv)).context("python3 -m venv")?;
    let wanted = format!("schemathesis=={VERSION}");
    output(Command::new(venv.join("bin/pip")).args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &wanted,
    ]))
    .context("pip install")?;
    std::fs::write(&marker, "")?;
    Ok(existing(&program)?.to_owned())
}

fn existing(path: &Path) -> Result<&Path> {
    std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(path)
}
