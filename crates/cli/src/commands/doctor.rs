//! `enginehouse doctor`: a look at everything, through the service if it runs, else at its files.

use super::configure::ConfigArgs;
use super::connect::{Connection, DataDir};
use super::output::{Output, age, printable};
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::client::ClientError;
use enginehouse_api::{DoctorAnswer, FindingView, RoleView, Timestamp};
use enginehouse_core::time::Time;
use enginehouse_store::sqlite::{SqliteOptions, SqliteStore};
use enginehouse_store::{Depth, Store};
use std::path::{Path, PathBuf};

/// Clocks so far apart are worth a word.
const CLOCK_APART_MS: i64 = 5_000;

/// What to look at.
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at the configuration, the store, leases against counts, the engines, the workers, the clock,
the disk, the keys and the alerts. While no service runs it looks at the configuration and at the
store of the data directory. The exit code is 1 when something failed.

Example:
  enginehouse doctor --config enginehouse.toml --data /var/lib/enginehouse --full")]
pub(crate) struct Doctor {
    #[command(flatten)]
    from: ConfigArgs,
    /// Read the whole store, which takes time
    #[arg(long)]
    full: bool,
}

impl Doctor {
    pub(crate) fn run(
        self,
        connection: &Connection,
        data: Option<PathBuf>,
        dir: Result<DataDir, Failure>,
        output: &mut Output,
    ) -> Result<Exit, Failure> {
        let mut findings = vec![self.configuration(data.as_deref())];
        let mut roles = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::call(error.to_string()))?;
        // Without a configuration that can be read it is not known which service is meant, so none is asked.
        if let Ok(dir) = dir {
            let (of_service, of_roles) = runtime.block_on(self.service(connection, &dir))?;
            findings.extend(of_service);
            roles = of_roles;
        }
        let now = Timestamp(Time(jiff::Timestamp::now().as_millisecond()));
        show(&DoctorAnswer { roles, ..DoctorAnswer::new(now, findings) }, output)
    }

    /// What the service finds, and what its roles did; while it does not run, what its files show.
    async fn service(
        &self,
        connection: &Connection,
        dir: &DataDir,
    ) -> Result<(Vec<FindingView>, Vec<RoleView>), Failure> {
        let answer = match connection.client(dir).await {
            Ok(client) => match client.doctor(self.full).await {
                Err(error @ ClientError::Problem { .. }) => return Err(error.into()),
                answer => answer.map_err(|error| format!("it does not answer: {error}")),
            },
            Err(failure) if failure.exit == Exit::Unreachable => {
                Err(failure.message.lines().next().unwrap_or_default().to_owned())
            }
            Err(failure) => return Err(failure),
        };
        match answer {
            Ok(answer) => {
                let clock = clock(answer.at);
                Ok((answer.findings.into_iter().chain([clock]).collect(), answer.roles))
            }
            Err(why) => {
                let remedy = "start it with `enginehouse serve`, or name it with --url";
                let findings =
                    vec![FindingView::warning("service", why, remedy), self.files(&dir.path).await];
                Ok((findings, Vec::new()))
            }
        }
    }

    pub(crate) fn from(&self) -> &ConfigArgs {
        &self.from
    }

    fn configuration(&self, data: Option<&Path>) -> FindingView {
        let loaded = self
            .from
            .sources(data)
            .and_then(|sources| sources.load().map_err(|faults| Failure::usage(faults.to_string())));
        match loaded {
            Ok(_) => FindingView::ok("configuration", "makes sense"),
            Err(failure) => {
                let remedy = "mend the keys named; `enginehouse config check` says the same";
                FindingView::failed("configuration", failure.message, remedy)
            }
        }
    }

    /// The store of a directory that no service works on.
    async fn files(&self, dir: &Path) -> FindingView {
        if !dir.exists() {
            let text = format!("there is no data directory {}", dir.display());
            return FindingView::warning("store", text, "name it with --data");
        }
        let remedy =
            "restore the newest backup that passes (`enginehouse restore`); keep a copy of the directory";
        let store = match SqliteStore::open(SqliteOptions::new(dir)) {
            Ok(store) => store,
            Err(error) => return FindingView::failed("store", error.to_string(), remedy),
        };
        let depth = if self.full { Depth::Full } else { Depth::Quick };
        let report = store.check(depth).await;
        let _ = store.close().await;
        match report {
            Ok(report) if report.findings.is_empty() => {
                FindingView::ok("store", format!("{} is sound", dir.display()))
            }
            Ok(report) => FindingView::failed("store", report.findings.join("; "), remedy),
            Err(error) => FindingView::failed("store", error.to_string(), remedy),
        }
    }
}

/// The service's clock against this machine's.
fn clock(service: Timestamp) -> FindingView {
    let apart = service.0.0.saturating_sub(jiff::Timestamp::now().as_millisecond());
    let text = format!("the service's clock and this machine's are {} ms apart", apart.abs());
    if apart.abs() > CLOCK_APART_MS {
        let remedy = "see that both machines' clocks are kept by NTP; after a step back the service's goes on from the \
                      greatest time it has stored and comes closer over time";
        return FindingView::warning("clock", text, remedy);
    }
    FindingView::ok("clock", text)
}

/// What the service's roles did last, as a table.
fn show_roles(answer: &DoctorAnswer, output: &mut Output) -> Result<(), Failure> {
    if answer.roles.is_empty() {
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    let rows: Vec<Vec<String>> = answer
        .roles
        .iter()
        .map(|role| {
            let last = match (role.running_ms, role.last_at) {
                (Some(ms), _) => format!("running, {ms} ms"),
                (None, Some(at)) => age(at, now),
                (None, None) => "-".to_owned(),
            };
            let took = role.last_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
            let came = match (&role.error, &role.did, role.did_at) {
                (Some(error), ..) => format!("failed {} times: {error}", role.failed_rounds),
                (None, Some(did), Some(at)) => format!("{did} ({} ago)", age(at, now)),
                _ => "ok".to_owned(),
            };
            vec![role.name.clone(), role.rounds.to_string(), last, took, came]
        })
        .collect();
    output.line("")?;
    output.table(&["ROLE", "ROUNDS", "LAST", "TOOK", "RESULT"], &rows)
}

fn show(answer: &DoctorAnswer, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        for finding in &answer.findings {
            let (verdict, check) = (&finding.verdict, &finding.check);
            output.line(&printable(&format!("{verdict:<8} {check:<14} {}", finding.text)))?;
            if let Some(remedy) = &finding.remedy {
                output.line(&printable(&format!("{:23} -> {remedy}", "")))?;
            }
        }
        show_roles(answer, output)?;
    }
    Ok(if answer.verdict == "failed" { Exit::CallFailed } else { Exit::Done })
}
