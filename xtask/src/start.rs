//! `cargo xtask start`: the service as a newcomer wants to see it first.

use crate::api::Api;
use crate::process::{cargo, root, run, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HELP: &str = "\
Build the service, run it with an embedded store in ./data and the demo engine, and submit a
little sample traffic. Ctrl-C stops it; what it stored is there again at the next start.

Usage: cargo xtask start [--release] [-- ARGS]

  --release   build with optimisations
  ARGS        handed to `enginehouse serve`, such as --listen 127.0.0.1:8080 or --config FILE
";

/// How this program calls itself to bring in the sample traffic, while it becomes the service.
const SAMPLE: &str = "--sample-traffic";
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    if let [flag, url, data, program] = args
        && flag == SAMPLE
    {
        return sample(url, Path::new(data), program);
    }
    let (own, served) = match args.iter().position(|arg| arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &args[..0]),
    };
    let release = own.iter().any(|arg| arg == "--release");
    if let Some(unknown) = own.iter().find(|arg| *arg != "--release") {
        bail!("{unknown:?} is not an option of start; what follows -- goes to the service\n\n{HELP}");
    }
    let program = build(release)?;
    let listen = flag(served, "--listen").unwrap_or("127.0.0.1:7070").to_owned();
    let data = flag(served, "--data").unwrap_or("data").to_owned();
    let url = format!("http://{listen}");
    Command::new(std::env::current_exe()?)
        .args(["start", SAMPLE, &url, &data, &program.display().to_string()])
        .current_dir(root())
        .stdin(Stdio::null())
        .spawn()
        .context("the sample traffic could not be started")?;
    let mut serve = Command::new(&program);
    serve.arg("serve").current_dir(root());
    if flag(served, "--data").is_none() {
        serve.args(["--data", &data]);
    }
    // This process becomes the service, so that Ctrl-C and the exit status are the service's own.
    let error = serve.arg("--demo").args(served).exec();
    Err(error).with_context(|| program.display().to_string())
}

/// Builds the service; gives the program, relative to the root where that is possible.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--locked", "--package", "enginehouse", "--bin", "enginehouse"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(target_dir().join(if release { "release" } else { "debug" }).join("enginehouse"))
}

fn flag<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let with_equals = format!("{name}=");
    args.iter().enumerate().find_map(|(at, arg)| {
        if arg == name { args.get(at + 1).map(String::as_str) } else { arg.strip_prefix(&with_equals) }
    })
}

/// Waits for the service, submits a few executions and says what to try.
fn sample(url: &str, data: &Path, program: &str) -> Result<()> {
    let open = Api::new(url, None);
    let deadline = Instant::now() + READY_WITHIN;
    while !open.get("/readyz").is_ok_and(|(status, _)| status == 200) {
        if Instant::now() > deadline {
            bail!("{url} is not ready after {} s; no sample traffic", READY_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let key_file = data.join("admin.key");
    let key = std::fs::read_to_string(&key_file).unwrap_or_default();
    let bearer = format!("Bearer {}", key.trim());
    let api = Api::new(url, Some(("authorization", &bearer)));
    let demo = |priority: &str, parameters: serde_json::Value| {
        json!({"engineType": "demo", "workflowId": "sample", "priority": priority, "tags": ["sample"],
               "parameters": parameters})
    };
    let executions = json!([
        demo("NORMAL", json!({"echo": "hello", "sleepMs": 50})),
        demo("HIGH", json!({"echo": {"order": 17}, "sleepMs": 2000, "progress": 10})),
        demo("LOW", json!({"echo": "tried three times", "failTimes": 2, "failKind": "unavailable"})),
        demo("NORMAL", json!({"echo": "fails for good", "failTimes": 9, "failKind": "engine_error"})),
        demo("CRITICAL", json!({"sleepMs": 10, "resultBytes": 4096})),
        demo("NORMAL", json!({"echo": "takes a minute", "sleepMs": 60_000, "progress": 60})),
    ]);
    let answer = api.must("POST", "/v1/executions/batch", Some(&json!({"executions": executions})))?;
    let count = answer["executions"].as_array().map_or(0, Vec::len);
    let program = Path::new(program).strip_prefix(root()).unwrap_or(Path::new(program)).display().to_string();
    println!("{}", invitation(url, &key_file.display().to_string(), &program, count));
    Ok(())
}

fn invitation(url: &str, key_file: &str, program: &str, count: usize) -> String {
    format!(
        "
Enginehouse is up at {url} (API reference: {url}/docs). {count} sample executions are submitted.
Try, in another terminal at the root of the repository:

  curl -s '{url}/v1/executions?wait=10s' \\
    -H \"Authorization: Bearer $(cat {key_file})\" -H 'Content-Type: application/json' \\
    -d '{{\"engineType\": \"demo\", \"workflowId\": \"hello\", \"parameters\": {{\"echo\": \"hi\", \"sleepMs\": 200}}}}'

  export ENGINEHOUSE_URL={url} ENGINEHOUSE_API_KEY=$(cat {key_file})
  {program} list
  {program} queue
  {program} submit --help

Ctrl-C stops it; whatever is not finished goes on at the next start.
"
    )
}
