//! A service as a process of its own, on a data directory of its own.

use crate::http::{self, Answer};
use serde_json::Value;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    child: Option<Child>,
}

/// The program, without what the environment of anyone who runs the tests says about a service of their own.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enginehouse"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ENGINEHOUSE_") {
            command.env_remove(name);
        }
    }
    command
}

impl House {
    /// Starts with a demo engine; `more` is TOML for further tables.
    pub(crate) fn start(more: &str) -> House {
        let mut house = House::prepare(more);
        house.launch();
        house.read_key();
        house
    }

    /// As [`House::start`], but nothing runs yet.
    pub(crate) fn prepare(more: &str) -> House {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("enginehouse.toml"),
            format!("[engines.demo]\ntype = \"demo\"\n\n{more}"),
        )
        .unwrap();
        House { dir, address, key: String::new(), child: None }
    }

    /// Takes the key that the first start made.
    pub(crate) fn read_key(&mut self) {
        // A service that asks for no keys makes none.
        let key = std::fs::read_to_string(self.data().join("admin.key")).unwrap_or_default();
        self.key = key.trim().to_owned();
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The command of a service on this directory.
    pub(crate) fn serve(&self) -> Command {
        let mut command = program();
        command.args(["serve", "--config"]).arg(self.dir.path().join("enginehouse.toml"));
        command.arg("--data").arg(self.data()).args(["--listen", &self.address.to_string()]);
        self.tame(&mut command);
        command
    }

    fn tame(&self, command: &mut Command) {
        command.env("XDG_CONFIG_HOME", self.dir.path().join("config")).current_dir(self.dir.path());
    }

    pub(crate) fn launch(&mut self) {
        self.spawn(self.serve());
        let ended = self.ready();
        assert!(ended.is_none(), "{ended:?}: {}", self.said());
        let told = self.data().join("address").exists();
        assert!(told, "who hears that it is ready finds its address: {}", self.said());
    }

    /// Runs a command of [`House::serve`].
    pub(crate) fn spawn(&mut self, mut command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until the service answers; how it ended, if it did that instead.
    pub(crate) fn ready(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + READY_WITHIN;
        let ready = http::request("GET", "/readyz", &[], b"");
        while !http::send(self.address, &ready).is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                self.child = None;
                return Some(status);
            }
            assert!(Instant::now() < deadline, "not ready: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("serve.log")
    }

    /// Everything the service wrote.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let ended = self.ended_within(within);
        ended.unwrap_or_else(|| panic!("it did not end within {} s: {}", within.as_secs(), self.said()))
    }

    /// How the process ended by itself; one that did not is killed.
    pub(crate) fn ended_within(&mut self, within: Duration) -> Option<ExitStatus> {
        let mut child = self.child.take().expect("it runs");
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn stop(mut self) {
        self.halt();
    }

    /// Stops gracefully; the directory stays.
    pub(crate) fn halt(&mut self) {
        self.signal("TERM");
        let status = self.wait(Duration::from_secs(60));
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// The most memory the process ever had, in KiB, without the pages of its own program, of which a debug build has many.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        kib("VmHWM:") - kib("RssFile:")
    }

    pub(crate) fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Answer> {
        call(self.address, &self.key, method, path, body)
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let answer = self.try_call(method, path, body).unwrap();
        (answer.status, answer.json())
    }

    /// The body of a 2xx answer.
    pub(crate) fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, value) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {value}");
        value
    }

    /// The execution, once `wanted` likes it.
    pub(crate) fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let view = self.must("GET", &format!("/v1/executions/{id}"), None);
            if wanted(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "{id} stays {view}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn ended(&self, id: &str) -> Value {
        self.until(id, |view| matches!(view["status"].as_str(), Some("completed" | "failed" | "cancelled")))
    }

    /// The program's command line against this service.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        let data = self.data();
        self.bare_cli(&[&["--data", data.to_str().unwrap()], args].concat()).output().unwrap()
    }

    /// The same, which is not told of this service: it stands beside the data directory.
    pub(crate) fn bare_cli(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.args(args).stdin(Stdio::null());
        self.tame(&mut command);
        command
    }
}

/// One call with a key.
pub(crate) fn call(
    to: SocketAddr,
    key: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<Answer> {
    let bearer = format!("Bearer {key}");
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut headers = vec![("authorization", bearer.as_str())];
    if !body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    http::send(to, &http::request(method, path, &headers, body.as_bytes()))
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Says that something could not be tested, even where the output of tests that pass is not shown.
pub(crate) fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
