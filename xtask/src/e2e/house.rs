//! A real Enginehouse process, with a data directory and a configuration of its own.

use crate::api::Api;
use crate::process::target_dir;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// The service as a process; killed when dropped.
pub(crate) struct House {
    dir: PathBuf,
    program: PathBuf,
    url: String,
    key: String,
    env: Vec<(String, String)>,
    /// Keys of the configuration that the next launch has otherwise.
    set: Vec<String>,
    child: Option<Child>,
}

impl House {
    /// Starts on an empty data directory in `dir`; `config` is TOML that is put after the server's and store's own tables.
    pub(crate) fn start(dir: &Path, config: &str, env: &[(&str, &str)]) -> Result<House> {
        House::start_built(dir, config, env, false)
    }

    pub(crate) fn start_built(
        dir: &Path,
        config: &str,
        env: &[(&str, &str)],
        release: bool,
    ) -> Result<House> {
        let program = crate::start::build(release)?;
        if dir.exists() {
            std::fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        std::fs::create_dir_all(dir)?;
        // The port is free again at once, and nothing else here takes ports at random.
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let own = format!(
            "[server]\nlisten = \"{listen}\"\n\n[storage]\ndata_dir = {:?}\nseal_key_file = {:?}\n\n",
            dir.join("data").display().to_string(),
            dir.join("seal.key").display().to_string()
        );
        std::fs::write(dir.join("enginehouse.toml"), own + config)?;
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let dir = dir.to_owned();
        let url = format!("http://{listen}");
        let mut house = House { dir, program, url, key: String::new(), env, set: Vec::new(), child: None };
        house.launch()?;
        let key_file = house.dir.join("data").join("admin.key");
        let key = std::fs::read_to_string(&key_file).with_context(|| key_file.display().to_string())?;
        house.key = key.trim().to_owned();
        Ok(house)
    }

    /// Starts the process, on the data of the last one, and waits until it is ready.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("serve.log"))?;
        let child = Command::new(&self.program)
            .arg("serve")
            .arg("--config")
            .arg(self.dir.join("enginehouse.toml"))
            .args(self.set.iter().flat_map(|pair| ["--set", pair]))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| self.program.display().to_string())?;
        self.child = Some(child);
        let open = Api::new(&self.url, None);
        let deadline = Instant::now() + READY_WITHIN;
        while !open.get("/readyz").is_ok_and(|(status, _)| status == 200) {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("the service ended at its start: {status}\n{}", self.log_end());
            }
            if Instant::now() > deadline {
                bail!("the service is not ready after {} s\n{}", READY_WITHIN.as_secs(), self.log_end());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Has a key of the configuration, as `key=value`, at the next launch.
    pub(crate) fn set(&mut self, pair: String) {
        self.set.push(pair);
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The most memory that the process had so far, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        self.memory_of("VmHWM:")
    }

    /// The memory that the process has now, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        self.memory_of("VmRSS:")
    }

    /// The bytes that the process had written to disk so far.
    pub(crate) fn written(&self) -> Result<u64> {
        let pid = self.child.as_ref().context("the service is not running")?.id();
        let counts = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
        let count = counts.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(count.context("no write_bytes")?.parse()?)
    }

    fn memory_of(&self, name: &str) -> Result<u64> {
        let pid = self.child.as_ref().context("the service is not running")?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(&self.url, Some(("authorization", &format!("Bearer {}", self.key))))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL: what a crash looks like from outside.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until the process has ended.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        let Some(mut child) = self.child.take() else { bail!("the service is not running") };
        let signalled = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        let deadline = Instant::now() + STOPPED_WITHIN;
        while signalled.as_ref().is_ok_and(|status| status.success()) && Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
        bail!("the service did not stop within {} s of SIGTERM\n{}", STOPPED_WITHIN.as_secs(), self.log_end())
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.terminate()?;
        if !status.success() {
            bail!("the service ended with {status}\n{}", self.log_end());
        }
        Ok(())
    }

    /// A command of the same program about this service: its exit code, and what it wrote.
    pub(crate) fn cli(&self, args: &[&str]) -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--data").arg(self.dir.join("data")).current_dir(&self.dir);
        let done = command.stdin(Stdio::null()).output().with_context(|| format!("{args:?}"))?;
        let said = [done.stdout, done.stderr].concat();
        Ok((done.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// What the service wrote since it was first launched.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("serve.log")).unwrap_or_default()
    }

    /// The last lines the service wrote.
    fn log_end(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("the service could not be killed: {error}");
        }
    }
}

/// Where the runs of one engine are kept.
pub(crate) fn place(name: &str) -> PathBuf {
    target_dir().join("e2e").join(name)
}
