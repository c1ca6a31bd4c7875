//! `cargo xtask start`: the service as a newcomer wants to see it first.

use crate::api::Api;
use crate::process::{cargo, root, run, target_dir};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HELP: &str = "\
Build the service, run it with an embedded store in ./data and the demo engine, and submit a
little sample traffic. Ctrl-C stops it; what it stored is there again at the next start.
A second one beside it works in ./data-2, and so on; where port 7070 is taken, a free one is used.

Usage: cargo xtask start [--release] [-- ARGS]

  --release   build with optimisations
  ARGS        handed to `enginehouse serve`, such as --listen 127.0.0.1:8080 or --config FILE
";

/// How this program calls itself to bring in the sample traffic, while it becomes the service.
const SAMPLE: &str = "--sample-traffic";
/// Where the service listens unless it is told otherwise.
const LISTEN: &str = "127.0.0.1:7070";
/// Flags and variables that may say where it listens.
const LISTEN_FLAGS: [&str; 4] = ["--listen", "--config", "-c", "server.listen"];
const LISTEN_VARIABLES: [&str; 2] = ["ENGINEHOUSE_CONFIG", "ENGINEHOUSE_SERVER__LISTEN"];
/// Services of this repository beside each other.
const DIRECTORIES_MAX: u32 = 16;
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    if let [flag, data, program] = args
        && flag == SAMPLE
    {
        return sample(Path::new(data), program);
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
    let data = data_directory(flag(served, "--data"))?;
    // What a service that was killed said of itself would lead the sample traffic to anyone who has its port now.
    let _ = std::fs::remove_file(root().join(&data).join("address"));
    Command::new(std::env::current_exe()?)
        .args(["start", SAMPLE, &data, &program.display().to_string()])
        .current_dir(root())
        .stdin(Stdio::null())
        .spawn()
        .context("the sample traffic could not be started")?;
    let mut serve = Command::new(&program);
    serve.arg("serve").current_dir(root());
    if flag(served, "--data").is_none() {
        serve.args(["--data", &data]);
    }
    let said = served.iter().any(|arg| LISTEN_FLAGS.iter().any(|name| arg.starts_with(name)))
        || LISTEN_VARIABLES.iter().any(|name| std::env::var_os(name).is_some());
    if !said && TcpListener::bind(LISTEN).is_err() {
        println!("{LISTEN} is taken; the service listens on a free port instead");
        serve.args(["--listen", "127.0.0.1:0"]);
    }
    // This process becomes the service, so that Ctrl-C and the exit status are the service's own.
    let error = serve.arg("--demo").args(served).exec();
    Err(error).with_context(|| program.display().to_string())
}

/// The directory that was asked for, or the first of the usual ones that no service works on.
fn data_directory(asked: Option<&str>) -> Result<String> {
    if let Some(dir) = asked {
        if is_used(&root().join(dir)) {
            bail!(
                "a service works on {dir} already; stop it first, or choose another directory with -- --data DIR"
            );
        }
        return Ok(dir.to_owned());
    }
    let usual = (1..=DIRECTORIES_MAX).map(|n| if n == 1 { "data".to_owned() } else { format!("data-{n}") });
    let Some(dir) = usual.into_iter().find(|dir| !is_used(&root().join(dir))) else {
        bail!("{DIRECTORIES_MAX} services work here already; choose a directory with -- --data DIR");
    };
    if dir != "data" {
        println!("a service works on ./data already; this one works on ./{dir}");
    }
    Ok(dir)
}

/// Whether a service holds the directory's lock.
fn is_used(dir: &Path) -> bool {
    File::open(dir.join("lock"))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
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
fn sample(data: &Path, program: &str) -> Result<()> {
    let Some(url) = &ready(data)? else { return Ok(()) };
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

/// The URL of the service that works on the directory, once it is ready; `None` when it did not come to that, and said why itself.
fn ready(data: &Path) -> Result<Option<String>> {
    let (service, deadline) = (parent_id(), Instant::now() + READY_WITHIN);
    while parent_id() == service {
        let told = std::fs::read_to_string(data.join("address")).unwrap_or_default();
        if let Some(url) = told.lines().next()
            && Api::new(url, None).get("/readyz").is_ok_and(|(status, _)| status == 200)
        {
            return Ok(Some(url.to_owned()));
        }
        if Instant::now() > deadline {
            bail!("the service is not ready after {} s; no sample traffic", READY_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(None)
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
