//! What the `command` adapter owes: nothing of the service leaks in, nothing of the program is left behind.

use crate::host::{NotingHost, call};
use crate::{until, within};
use async_trait::async_trait;
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::{
    Call, Command as Adapter, CommandConfig, CommandOutput, Engine, EngineFailure, Host, LetGo, Outcome,
    Progress, Stop,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn shell(script: &str) -> CommandConfig {
    CommandConfig::new(vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()])
}

async fn run(config: CommandConfig, parameters: &str) -> (Outcome, Arc<NotingHost>) {
    let host = Arc::new(NotingHost::default());
    let (_stop, call) = call(&host, "w", parameters);
    let call = Call { result_bytes_max: 10_000, ..call };
    (within(Adapter::new(config).unwrap().run(call)).await, host)
}

async fn succeeds(config: CommandConfig, parameters: &str) -> String {
    match run(config, parameters).await.0 {
        Outcome::Succeeded { result, .. } => String::from_utf8(result.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn fails(config: CommandConfig, parameters: &str) -> (EngineFailure, Arc<NotingHost>) {
    match run(config, parameters).await {
        (Outcome::Failed(failure), host) => (failure, host),
        (other, _) => panic!("{other:?}"),
    }
}

fn alive(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap_or_default();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !pid.trim().is_empty() && stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn parameters_go_in_and_the_result_comes_out() {
    assert_eq!(succeeds(shell("cat"), "{\"a\":[1.0, \"ü\"]}").await, "{\"a\":[1.0, \"ü\"]}");
    let text = CommandConfig { output: CommandOutput::Text, ..shell("printf 'two\\nlines'") };
    assert_eq!(succeeds(text, "null").await, "\"two\\nlines\"");
    assert_eq!(succeeds(shell("true"), "{}").await, "null");
    // A program that reads nothing, given more than a pipe holds.
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(succeeds(shell("echo 7"), &large).await, "7");
}

#[tokio::test]
async fn failures_say_what_happened() {
    let (failure, host) = fails(shell("echo progress >&2; echo it broke >&2; exit 3"), "{}").await;
    assert_eq!(
        (failure.kind, failure.code.as_str(), failure.engine_status),
        (FailureKind::EngineError, "exit_status", Some(3))
    );
    assert!(failure.message.contains("it broke"), "{failure:?}");
    assert_eq!(*host.logs.lock().unwrap(), ["progress", "it broke"]);
    let told = host.progress.lock().unwrap().clone();
    let told: Vec<_> =
        told.into_iter().map(|item| (item.fraction, item.data.unwrap().get().to_owned())).collect();
    assert_eq!(told, [(None, "\"progress\"".to_owned()), (None, "\"it broke\"".to_owned())]);
    let lines = r#"echo '{"progress": 0.25, "step": "read"}' >&2; echo '{"progress": 7}' >&2; exit 3"#;
    let (_, host) = fails(shell(lines), "{}").await;
    let told: Vec<Option<f64>> = host.progress.lock().unwrap().iter().map(|item| item.fraction).collect();
    assert_eq!(told, [Some(0.25), None], "only a share is one");
    let exact = r#"{"n":12345678901234567890123,"x":0.1000000000000000055,"f":1.0}"#;
    let (_, host) = fails(shell(&format!("echo '{exact}' >&2; exit 3")), "{}").await;
    assert_eq!(host.progress.lock().unwrap()[0].data.as_ref().unwrap().get(), exact, "each digit");
    for (config, kind, code) in [
        (shell("echo not json"), FailureKind::BadResponse, "malformed_output"),
        (shell("printf '{\"n\":NaN}'"), FailureKind::BadResponse, "malformed_output"),
        (shell("printf '{\"n\":4'"), FailureKind::BadResponse, "malformed_output"),
        (shell("head -c 20000 /dev/zero"), FailureKind::TooLarge, "result_too_large"),
        (shell("kill -9 $$"), FailureKind::EngineError, "killed"),
        (CommandConfig::new(vec!["/no/such/program".to_owned()]), FailureKind::NotFound, "program_not_found"),
        (CommandConfig::new(vec!["/etc/passwd".to_owned()]), FailureKind::Auth, "program_not_allowed"),
        (
            CommandConfig { work_dir: PathBuf::from("/no/such/place"), ..shell("true") },
            FailureKind::Unavailable,
            "no_directory",
        ),
    ] {
        let (failure, _) = fails(config, "{}").await;
        assert_eq!((failure.kind, failure.code.as_str()), (kind, code), "{failure:?}");
    }
    assert!(Adapter::new(CommandConfig::new(vec!["cat".to_owned()])).is_err(), "there is no PATH");
    assert!(Adapter::new(CommandConfig::new(Vec::new())).is_err());
}

#[tokio::test]
async fn the_environment_is_what_is_configured_and_the_directory_is_its_own() {
    let env = CommandConfig {
        output: CommandOutput::Text,
        env: vec![("ONLY".to_owned(), "this".into())],
        ..CommandConfig::new(vec!["/usr/bin/env".to_owned()])
    };
    assert_eq!(succeeds(env, "{}").await, "\"ONLY=this\\n\"");
    let base = tempfile::tempdir().unwrap();
    let config = CommandConfig {
        output: CommandOutput::Text,
        work_dir: base.path().to_owned(),
        ..shell("ls -A; echo left > behind; pwd")
    };
    let place = succeeds(config, "{}").await;
    assert!(place.contains("enginehouse-e1-1-"), "{place}");
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_cancel_ends_the_program_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    // The child does not care for a polite signal.
    let script = format!("(trap '' TERM; sleep 600 & echo $! > {}; wait) & wait", file.display());
    let config = CommandConfig { kill_after: std::time::Duration::from_millis(100), ..shell(&script) };
    let (stop, call) = call(&Arc::default(), "w", "{}");
    let task = tokio::spawn(async move { Adapter::new(config).unwrap().run(call).await });
    until(|| alive(&file)).await;
    stop.send_replace(Some(Stop::Cancel));
    assert_eq!(within(task).await.unwrap(), Outcome::Cancelled);
    until(|| !alive(&file)).await;
}

#[tokio::test]
async fn letting_go_kills_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let config = shell(&format!("sleep 600 & echo $! > {}; wait", file.display()));
    let (_stop, call) = call(&Arc::default(), "w", "{}");
    let task = tokio::spawn(async move { Adapter::new(config).unwrap().run(call).await });
    until(|| alive(&file)).await;
    task.abort();
    until(|| !alive(&file)).await;
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let config = shell(&format!("sleep 600 & echo $! > {}; echo 1", file.display()));
    assert_eq!(succeeds(config, "{}").await, "1");
    until(|| !alive(&file)).await;
}

/// A host that looks whether the program has begun when its group is stored.
struct GateKeeper {
    marker: PathBuf,
    lets_in: bool,
    begun_before: std::sync::Mutex<Option<bool>>,
}

#[async_trait]
impl Host for GateKeeper {
    async fn attached(&self, engine_run: &str, can_reattach: bool) -> Result<(), LetGo> {
        assert!(!can_reattach && engine_run.contains('/'), "{engine_run}");
        // Long enough for a program without a gate to have run.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        *self.begun_before.lock().unwrap() = Some(self.marker.exists());
        if self.lets_in { Ok(()) } else { Err(LetGo) }
    }
    fn progress(&self, _: Progress) {}
    fn log(&self, _: &str) {}
    async fn recall(&self, _: &str) -> Option<String> {
        None
    }
    async fn remember(&self, _: &str, _: &str) {}
}

#[tokio::test]
async fn the_group_is_stored_before_the_program_begins() {
    for lets_in in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("begun");
        let keeper = Arc::new(GateKeeper {
            marker: marker.clone(),
            lets_in,
            begun_before: std::sync::Mutex::default(),
        });
        let (_stop, call) = call(&Arc::default(), "w", "{}");
        let call = Call { host: keeper.clone(), ..call };
        let config = shell(&format!("touch {}", marker.display()));
        let outcome = within(Adapter::new(config).unwrap().run(call)).await;
        assert_eq!(*keeper.begun_before.lock().unwrap(), Some(false));
        assert_eq!(marker.exists(), lets_in, "{outcome:?}");
        assert_eq!(outcome == Outcome::LetGo, !lets_in);
    }
}
