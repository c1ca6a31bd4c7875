//! Running other programs.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// Where builds go.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// `cargo ARGS` at the root, with the cargo that runs this.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// The command as it would be typed.
fn shown(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}

/// Runs to the end with this program's own input and output; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let what = shown(command);
    let status = command.status().with_context(|| format!("{what}: could not be started"))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    Ok(())
}

/// Whether the command can be started and succeeds; says nothing.
pub(crate) fn works(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs to the end and gives what it wrote to its standard output; the error carries the end of its standard error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let what = shown(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{what}: could not be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let end: Vec<&str> = said.lines().rev().take(30).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        bail!("{what}: {}\n{}", output.status, end.join("\n"));
    }
    Ok(output.stdout)
}

/// Runs to the end, passes every line on as it comes, and shows each to `see`. `Ok(false)`: it failed.
pub(crate) fn watched(command: &mut Command, see: &mut dyn FnMut(&str)) -> Result<bool> {
    let what = shown(command);
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("{what}: could not be started"))?;
    let (sender, lines) = std::sync::mpsc::sync_channel(256);
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    ];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(|line| line.ok()) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut out = std::io::stdout().lock();
    for line in lines {
        see(&line);
        writeln!(out, "{line}")?;
    }
    Ok(child.wait()?.success())
}
