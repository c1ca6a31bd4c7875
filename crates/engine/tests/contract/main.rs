//! One contract for every adapter that speaks HTTP, tried against a server that misbehaves in every way we know of.
//!
//! A row is (adapter, step, fault); `common` holds what every adapter owes, and a [`Dialect`] says where one rightly
//! differs. No failure may ever hold the API key, whatever the server repeats.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without may end it")]

mod command;
mod dialect;
mod host;
mod http;
mod http_forms;
mod keys;
mod langflow;
mod langsmith;
mod n8n;
mod started;
mod stub;
mod tls;

use dialect::{CANARY, Dialect, Expected, Fake, Fault, RunState, Step};
use enginehouse_core::failure::FailureKind;
use enginehouse_engine::config::{HealthRoute, HttpSettings, PollSettings};
use enginehouse_engine::{Call, Engine, INVALID_ENGINE_OPTIONS, Outcome, Reached, Stop, Workflow};
use host::{NotingHost, call};
use std::sync::Arc;
use std::time::Duration;
use stub::{Plan, Stub};

/// A test that has not ended by then hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// Rows tried at the same time.
const ROWS_AT_ONCE: usize = 16;

/// Every adapter of the suite.
fn dialects() -> Vec<Arc<dyn Dialect>> {
    vec![
        Arc::new(n8n::N8n),
        Arc::new(http::Jobs),
        Arc::new(http::Direct),
        Arc::new(langsmith::Langsmith),
        Arc::new(langflow::Langflow),
        Arc::new(langflow::LangflowV1),
    ]
}

fn settings(url: &str) -> HttpSettings {
    HttpSettings {
        api_key: Some(CANARY.into()),
        headers: vec![("x-extra".to_owned(), format!("Bearer {CANARY}-2").into())],
        request_timeout: Duration::from_secs(10),
        transfer_timeout: Duration::from_secs(10),
        poll: PollSettings {
            first: Duration::from_millis(5),
            longest: Duration::from_millis(20),
            unreachable_after: Duration::from_millis(300),
        },
        ..HttpSettings::new(url)
    }
}

/// Faults that only end by a time limit of ours get a short one.
fn settings_for(url: &str, fault: Fault) -> HttpSettings {
    let limit =
        Duration::from_millis(if matches!(fault, Fault::Stall | Fault::Drip) { 1_500 } else { 10_000 });
    HttpSettings { request_timeout: limit, transfer_timeout: limit, ..settings(url) }
}

/// What every adapter owes when the request that starts a run meets a fault each time.
fn common_submit(fault: Fault) -> Expected {
    use FailureKind::{
        Auth, BadResponse, Connection, InvalidRequest, NotFound, RateLimited, TooLarge, Unavailable,
    };
    match fault {
        Fault::Slow => Expected::Succeeds,
        Fault::Stall | Fault::Drip | Fault::Reset | Fault::LostAnswer => {
            Expected::Fails(Connection, Reached::Maybe)
        }
        Fault::NotHttp | Fault::Malformed | Fault::Empty | Fault::Truncated => {
            Expected::Fails(BadResponse, Reached::Maybe)
        }
        Fault::TooDeep => Expected::Fails(BadResponse, Reached::Maybe),
        Fault::Huge | Fault::Endless => Expected::Fails(TooLarge, Reached::Maybe),
        Fault::Redirect => Expected::Fails(InvalidRequest, Reached::Yes),
        Fault::Busy => Expected::Fails(RateLimited, Reached::Yes),
        Fault::Status(status) => match status {
            401 | 403 => Expected::Fails(Auth, Reached::Yes),
            404 => Expected::Fails(NotFound, Reached::Yes),
            408 => Expected::Fails(RateLimited, Reached::Yes),
            413 => Expected::Fails(TooLarge, Reached::Yes),
            500 => Expected::Fails(BadResponse, Reached::Maybe),
            502 | 504 => Expected::Fails(Unavailable, Reached::Maybe),
            503 => Expected::Fails(Unavailable, Reached::Yes),
            _ => Expected::Fails(InvalidRequest, Reached::Yes),
        },
    }
}

/// How a run ends that its service does not know any more.
const LOST: Expected = Expected::Fails(FailureKind::Unavailable, Reached::Yes);

/// What a fault at each status poll, or at each fetch of the result, ends in.
fn common_follow(fault: Fault) -> Expected {
    use FailureKind::{BadResponse, Connection, RateLimited, Unavailable};
    match fault {
        Fault::Stall | Fault::Drip | Fault::Reset | Fault::LostAnswer => {
            Expected::Fails(Connection, Reached::Maybe)
        }
        Fault::Malformed | Fault::Empty | Fault::NotHttp | Fault::Truncated | Fault::TooDeep => {
            Expected::Fails(BadResponse, Reached::Maybe)
        }
        Fault::Busy | Fault::Status(408) => Expected::Fails(RateLimited, Reached::Maybe),
        Fault::Status(500) => Expected::Fails(BadResponse, Reached::Maybe),
        Fault::Status(502..=504) => Expected::Fails(Unavailable, Reached::Maybe),
        Fault::Huge | Fault::Endless => Expected::Fails(FailureKind::TooLarge, Reached::Yes),
        Fault::Status(401 | 403) => Expected::Fails(FailureKind::Auth, Reached::Maybe),
        // They say something of the way to the engine, not of the run.
        Fault::Redirect | Fault::Status(_) => Expected::Fails(BadResponse, Reached::Maybe),
        Fault::Slow => Expected::Succeeds,
    }
}

const FAULTS: [Fault; 25] = [
    Fault::Slow,
    Fault::Stall,
    Fault::Drip,
    Fault::Reset,
    Fault::LostAnswer,
    Fault::Malformed,
    Fault::Empty,
    Fault::NotHttp,
    Fault::Truncated,
    Fault::TooDeep,
    Fault::Huge,
    Fault::Endless,
    Fault::Redirect,
    Fault::Busy,
    Fault::Status(400),
    Fault::Status(401),
    Fault::Status(403),
    Fault::Status(404),
    Fault::Status(408),
    Fault::Status(413),
    Fault::Status(422),
    Fault::Status(500),
    Fault::Status(502),
    Fault::Status(503),
    Fault::Status(504),
];

/// Runs every row of (adapter, fault) that `row` takes, some at a time, and reports all that are wrong.
async fn rows<F, R>(row: F)
where
    F: Fn(Arc<dyn Dialect>, Fault) -> R,
    R: Future<Output = Result<(), String>> + Send + 'static,
{
    let permits = Arc::new(tokio::sync::Semaphore::new(ROWS_AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    for dialect in dialects() {
        for fault in FAULTS {
            let (permits, name) = (permits.clone(), dialect.name());
            let row = row(dialect.clone(), fault);
            running.spawn(async move {
                let _permit = permits.acquire_owned().await.unwrap();
                let outcome = tokio::time::timeout(DEADLINE, row).await;
                outcome
                    .unwrap_or_else(|_| Err("hangs".to_owned()))
                    .map_err(|e| format!("{name} {fault:?}: {e}"))
            });
        }
    }
    let mut wrong = Vec::new();
    while let Some(done) = running.join_next().await {
        wrong.extend(done.unwrap().err());
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn compare(dialect: &dyn Dialect, outcome: &Outcome, expected: Expected) -> Result<(), String> {
    let matches = match (outcome, expected) {
        (Outcome::Succeeded { result, .. }, Expected::Succeeds) => result == dialect.result().as_bytes(),
        (Outcome::Cancelled, Expected::Cancelled) => true,
        (Outcome::Failed(failure), Expected::Fails(kind, reached)) => {
            failure.kind == kind && failure.reached == reached && !failure.code.is_empty()
        }
        _ => false,
    };
    if let Outcome::Failed(failure) = outcome {
        let told = format!("{failure:?}");
        if ["canary", "7f3a"].iter().any(|part| told.contains(part)) {
            return Err(format!("tells the key: {told}"));
        }
    }
    if matches { Ok(()) } else { Err(format!("expected {expected:?}, got {outcome:?}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_at_submit() {
    rows(|dialect, fault| async move {
        if dialect.skips(Step::Submit, fault) {
            return Ok(());
        }
        let plan = Plan { step: Step::Submit, fault, times: usize::MAX };
        let stub = Stub::start(dialect.clone(), Fake::new(RunState::Succeeded), Some(plan)).await;
        let engine = dialect.engine(settings_for(stub.url(), fault));
        let common = || match common_submit(fault) {
            // The head of the answer was a success, so the request was taken: who cannot recognise a repeat gets none.
            Expected::Fails(kind @ (FailureKind::BadResponse | FailureKind::TooLarge), Reached::Maybe)
                if !engine.capabilities().idempotent_submit
                    && !matches!(fault, Fault::NotHttp | Fault::Status(_)) =>
            {
                Expected::Fails(kind, Reached::Yes)
            }
            expected => expected,
        };
        let expected = dialect.differs(Step::Submit, fault).unwrap_or_else(common);
        let (_stop, call) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
        let outcome = engine.run(call).await;
        compare(&*dialect, &outcome, expected)?;
        if let (Fault::Busy, Outcome::Failed(failure)) = (fault, &outcome)
            && failure.retry_after != Some(7_000)
        {
            return Err(format!("Retry-After was not read: {failure:?}"));
        }
        if let (Fault::Status(status), Outcome::Failed(failure)) = (fault, &outcome)
            && failure.engine_status != Some(i32::from(status))
        {
            return Err(format!("the engine's status is missing: {failure:?}"));
        }
        Ok(())
    })
    .await;
}

/// An answer that is lost once: the next attempt of the same run must not make a second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_submit_starts_no_second_run() {
    rows(|dialect, fault| async move {
        if fault != Fault::LostAnswer || dialect.skips(Step::Submit, fault) {
            return Ok(());
        }
        let plan = Plan { step: Step::Submit, fault, times: 1 };
        let stub = Stub::start(dialect.clone(), Fake::new(RunState::Succeeded), Some(plan)).await;
        let engine = dialect.engine(settings_for(stub.url(), fault));
        if !engine.capabilities().idempotent_submit {
            return Ok(());
        }
        let host = Arc::new(NotingHost::default());
        let (_stop, first) = call(&host, dialect.workflow_id(), dialect.parameters());
        let second = Call { maybe_started: true, attempt: 2, ..first.clone() };
        let lost = Expected::Fails(FailureKind::Connection, Reached::Maybe);
        compare(&*dialect, &engine.run(first).await, lost)?;
        compare(&*dialect, &engine.run(second).await, Expected::Succeeds)?;
        match stub.fake(|fake| fake.runs.len()) {
            1 => Ok(()),
            runs => Err(format!("{runs} runs were started")),
        }
    })
    .await;
}

/// Faults at two polls in a row are no reason to give up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_faults_at_a_status_poll() {
    rows(|dialect, fault| async move {
        let passing = matches!(common_follow(fault), Expected::Fails(_, Reached::Maybe) | Expected::Succeeds)
            && !matches!(fault, Fault::Huge | Fault::Endless | Fault::Busy | Fault::Stall | Fault::Drip);
        if !passing || dialect.skips(Step::Status, fault) {
            return Ok(());
        }
        let plan = Plan { step: Step::Status, fault, times: 2 };
        let stub = Stub::start(dialect.clone(), Fake::new(RunState::Succeeded), Some(plan)).await;
        let mut settings = settings_for(stub.url(), fault);
        settings.poll.unreachable_after = DEADLINE;
        let (_stop, call) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
        let outcome = dialect.engine(settings).run(call).await;
        compare(&*dialect, &outcome, Expected::Succeeds)
    })
    .await;
}

/// Faults at every poll: the attempt ends within its patience, and the run can be taken up again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lasting_faults_at_a_status_poll() {
    rows(|dialect, fault| async move {
        if dialect.skips(Step::Status, fault) {
            return Ok(());
        }
        follow_fault(&*dialect.clone(), dialect, Step::Status, fault).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lasting_faults_at_the_result() {
    rows(|dialect, fault| async move {
        if dialect.skips(Step::Result, fault) {
            return Ok(());
        }
        follow_fault(&*dialect.clone(), dialect, Step::Result, fault).await
    })
    .await;
}

async fn follow_fault(
    rules: &dyn Dialect,
    dialect: Arc<dyn Dialect>,
    step: Step,
    fault: Fault,
) -> Result<(), String> {
    let expected = rules.differs(step, fault).unwrap_or_else(|| common_follow(fault));
    let plan = Plan { step, fault, times: usize::MAX };
    let stub = Stub::start(dialect.clone(), Fake::new(RunState::Succeeded), Some(plan)).await;
    let engine = dialect.engine(settings_for(stub.url(), fault));
    let host = Arc::new(NotingHost::default());
    let (_stop, first) = call(&host, dialect.workflow_id(), dialect.parameters());
    compare(rules, &engine.run(first).await, expected)?;
    let engine_run = host.engine_run().ok_or("no run was attached")?;
    if stub.fake(|fake| fake.runs.len()) != 1 {
        return Err("not one run".to_owned());
    }
    if stub.fake(|fake| fake.runs[0].cancels) != 0 {
        return Err("cancelled a run nobody asked to cancel".to_owned());
    }
    if engine_run.is_empty() { Err("an empty run id".to_owned()) } else { Ok(()) }
}

#[tokio::test]
async fn ends_of_a_run() {
    let states = [
        RunState::Succeeded,
        RunState::Failed,
        RunState::TimedOut,
        RunState::Cancelled,
        RunState::Crashed,
        RunState::Asks,
        RunState::Forgotten,
    ];
    for dialect in dialects() {
        for state in states {
            let Some(expected) = dialect.ends(state) else { continue };
            let stub = Stub::start(dialect.clone(), Fake::new(state), None).await;
            let engine = dialect.engine(settings(stub.url()));
            let (_stop, call) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
            let outcome = within(engine.run(call)).await;
            compare(&*dialect, &outcome, expected)
                .unwrap_or_else(|e| panic!("{} {state:?}: {e}", dialect.name()));
            if let (RunState::Failed, Outcome::Failed(failure)) = (state, &outcome) {
                let words = dialect.failure_words();
                assert!(failure.message.contains(words), "{}: {failure:?}", dialect.name());
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_was_not_reached() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    for dialect in dialects() {
        for (url, code) in [
            (format!("http://127.0.0.1:{port}"), "connection_refused"),
            ("http://name.invalid:80".to_owned(), "name_not_found"),
        ] {
            let engine = dialect.engine(settings(&url));
            let (_stop, call) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
            let outcome = within(engine.run(call)).await;
            let expected = Expected::Fails(FailureKind::Connection, Reached::No);
            compare(&*dialect, &outcome, expected)
                .unwrap_or_else(|e| panic!("{} {url}: {e}", dialect.name()));
            let Outcome::Failed(failure) = outcome else { unreachable!() };
            assert_eq!(failure.code, code, "{}: {failure:?}", dialect.name());
            assert_eq!(within(engine.health(0)).await.healthy, Some(false));
        }
    }
}

#[tokio::test]
async fn a_certificate_is_checked_and_a_ca_file_is_trusted() {
    for dialect in dialects() {
        for (certificate, trusted, healthy) in [
            (tls::Certificate::ForLocalhost, true, true),
            (tls::Certificate::ForLocalhost, false, false),
            (tls::Certificate::ForAnotherHost, true, false),
            (tls::Certificate::Expired, true, false),
            (tls::Certificate::SelfSigned, true, true),
            (tls::Certificate::SelfSigned, false, false),
            (tls::Certificate::OwnAuthority, true, false),
        ] {
            let identity = tls::Identity::new(certificate);
            let fake = Fake::new(RunState::Succeeded);
            let stub = Stub::start_on(dialect.clone(), fake, None, Some(identity.acceptor())).await;
            let ca_file = trusted.then(|| identity.ca_file());
            let engine = dialect.engine(HttpSettings { ca_file, ..settings(stub.url()) });
            let (_stop, call) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
            let outcome = within(engine.run(call)).await;
            let expected = if healthy {
                Expected::Succeeds
            } else {
                Expected::Fails(FailureKind::Connection, Reached::No)
            };
            compare(&*dialect, &outcome, expected)
                .unwrap_or_else(|e| panic!("{} {certificate:?} {trusted}: {e}", dialect.name()));
            if let Outcome::Failed(failure) = outcome {
                assert_eq!(failure.code, "tls_failed", "{failure:?}");
                let says_how = failure.message.contains("basicConstraints=critical,CA:FALSE");
                assert_eq!(says_how, matches!(certificate, tls::Certificate::OwnAuthority), "{failure:?}");
            }
        }
    }
}

/// Runs a call in the background until the engine has been asked how the run does.
async fn running(
    dialect: &Arc<dyn Dialect>,
    engine: &Arc<dyn Engine>,
    stub: &Stub,
) -> Option<(tokio::sync::watch::Sender<Option<Stop>>, tokio::task::JoinHandle<Outcome>, Arc<NotingHost>)> {
    let host = Arc::new(NotingHost::default());
    let (stop, call) = call(&host, dialect.workflow_id(), dialect.parameters());
    let task = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.run(call).await })
    };
    until(|| !stub.seen(Step::Status).is_empty()).await;
    Some((stop, task, host))
}

#[tokio::test]
async fn a_wish_to_stop_stops_the_run_in_the_engine() {
    let faults = [
        None,
        Some((Fault::Reset, 2)),
        Some((Fault::Status(503), 2)),
        Some((Fault::LostAnswer, 1)),
        // They may be of something on the way.
        Some((Fault::Status(403), 1)),
        Some((Fault::Redirect, 1)),
    ];
    for dialect in dialects() {
        for (stop_by, fault) in [Stop::Cancel, Stop::Timeout].into_iter().flat_map(|s| faults.map(|f| (s, f)))
        {
            let plan = fault.map(|(fault, times)| Plan { step: Step::Cancel, fault, times });
            let stub = Stub::start(dialect.clone(), Fake::new(RunState::Running), plan).await;
            let engine = dialect.engine(settings(stub.url()));
            if !engine.capabilities().cancel {
                continue;
            }
            let (stop, task, _host) = within(running(&dialect, &engine, &stub)).await.unwrap();
            stop.send_replace(Some(stop_by));
            let outcome = within(task).await.unwrap();
            assert_eq!(outcome, Outcome::Cancelled, "{} {stop_by:?} {fault:?}", dialect.name());
            assert!(
                stub.fake(|fake| fake.runs[0].cancels) > 0,
                "{}: the engine was not told",
                dialect.name()
            );
        }
    }
}

/// A run that ends while it is being stopped has ended, not been cancelled.
#[tokio::test]
async fn the_true_end_wins_over_a_late_wish_to_stop() {
    for dialect in dialects() {
        let stub = Stub::start(dialect.clone(), Fake::new(RunState::Running), None).await;
        let engine = dialect.engine(settings(stub.url()));
        if !engine.capabilities().cancel {
            continue;
        }
        let (stop, task, _host) = within(running(&dialect, &engine, &stub)).await.unwrap();
        stub.fake(|fake| fake.runs[0].state = RunState::Succeeded);
        stop.send_replace(Some(Stop::Cancel));
        let outcome = within(task).await.unwrap();
        compare(&*dialect, &outcome, Expected::Succeeds)
            .unwrap_or_else(|e| panic!("{}: {e}", dialect.name()));
    }
}

#[tokio::test]
async fn letting_go_leaves_the_run_alone_and_it_can_be_taken_up_again() {
    for dialect in dialects() {
        let stub = Stub::start(dialect.clone(), Fake::new(RunState::Running), None).await;
        let engine = dialect.engine(settings(stub.url()));
        if !engine.capabilities().reattach {
            continue;
        }
        let (_stop, task, host) = within(running(&dialect, &engine, &stub)).await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        let engine_run = host.engine_run().unwrap();
        assert!(host.attached.lock().unwrap().iter().all(|(_, can_reattach)| *can_reattach));
        // A new process knows nothing but the run's id.
        drop(engine);
        until(|| stub.open_connections() == 0).await;
        stub.fake(|fake| fake.end = RunState::Succeeded);
        let engine = dialect.engine(settings(stub.url()));
        let (_stop, mut again) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
        again.engine_run = Some(engine_run);
        again.attempt = 2;
        let outcome = within(engine.run(again)).await;
        compare(&*dialect, &outcome, Expected::Succeeds)
            .unwrap_or_else(|e| panic!("{}: {e}", dialect.name()));
        let runs = stub.fake(|fake| fake.runs.clone());
        assert_eq!((runs.len(), runs[0].cancels), (1, 0), "{}", dialect.name());
    }
}

#[tokio::test]
async fn a_run_nobody_follows_can_be_cancelled() {
    for dialect in dialects() {
        let stub = Stub::start(dialect.clone(), Fake::new(RunState::Running), None).await;
        let engine = dialect.engine(settings(stub.url()));
        if !engine.capabilities().cancel {
            continue;
        }
        let (_stop, task, host) = within(running(&dialect, &engine, &stub)).await.unwrap();
        task.abort();
        let engine_run = host.engine_run().unwrap();
        let name = dialect.name();
        assert_eq!(within(engine.cancel(0, &engine_run)).await, Ok(()), "{name}");
        assert_eq!(stub.fake(|fake| fake.runs[0].state), RunState::Cancelled, "{name}");
        assert_eq!(within(engine.cancel(0, &engine_run)).await, Ok(()), "{name}: a second time");
        stub.fake(|fake| fake.runs.clear());
        assert_eq!(within(engine.cancel(0, &engine_run)).await, Ok(()), "{name}: forgotten");
        assert!(within(engine.cancel(0, "no/such\nrun")).await.is_err(), "{name}: not an id of this engine");
    }
}

#[tokio::test]
async fn a_result_over_the_limit_is_refused() {
    for dialect in dialects() {
        let stub = Stub::start(dialect.clone(), Fake::new(RunState::Succeeded), None).await;
        let (_stop, mut call) = call(&Arc::default(), dialect.workflow_id(), dialect.parameters());
        call.result_bytes_max = dialect.result().len() - 1;
        let outcome = within(dialect.engine(settings(stub.url())).run(call)).await;
        let expected = Expected::Fails(FailureKind::TooLarge, Reached::Yes);
        compare(&*dialect, &outcome, expected).unwrap_or_else(|e| panic!("{}: {e}", dialect.name()));
    }
}

#[tokio::test]
async fn an_option_nobody_knows_is_refused() {
    for dialect in dialects() {
        let engine = dialect.engine(settings("http://127.0.0.1:9"));
        let asked = |options| Workflow {
            id: dialect.workflow_id(),
            definition: None,
            parameters: dialect.parameters().as_bytes(),
            options,
        };
        assert_eq!(engine.validate(&asked(None)), Ok(()), "{}", dialect.name());
        let failure = engine.validate(&asked(Some(br#"{"nonsense":1}"#))).unwrap_err();
        assert_eq!(failure.code, INVALID_ENGINE_OPTIONS, "{}: {failure:?}", dialect.name());
        assert!(failure.message.contains("nonsense"), "{}: {failure:?}", dialect.name());
    }
}

#[tokio::test]
async fn health_tells_a_well_engine_from_others() {
    for dialect in dialects() {
        let name = dialect.name();
        let ill = [Fault::Stall, Fault::Reset, Fault::Status(503), Fault::Status(500), Fault::NotHttp];
        // It has no such route, or not for the service: that is no illness.
        let unknown = [401, 403, 404, 405, 429, 501].map(Fault::Status).into_iter().chain([Fault::Redirect]);
        let faults =
            ill.map(|fault| (fault, Some(false))).into_iter().chain(unknown.map(|fault| (fault, None)));
        for (fault, healthy) in [(None, Some(true))].into_iter().chain(faults.map(|(f, h)| (Some(f), h))) {
            let plan = fault.map(|fault| Plan { step: Step::Health, fault, times: usize::MAX });
            let stub = Stub::start(dialect.clone(), Fake::new(RunState::Succeeded), plan).await;
            let engine = dialect.engine(settings_for(stub.url(), fault.unwrap_or(Fault::Slow)));
            let health = within(engine.health(0)).await;
            assert_eq!(health.healthy, healthy, "{name} {fault:?}: {health:?}");
            assert!(!health.detail.contains("canary"), "{name} {fault:?}: {health:?}");
        }
        let engine = dialect.engine(settings("http://127.0.0.1:9"));
        let health = within(engine.health(7)).await;
        assert_eq!(health.healthy, Some(false), "{name}: an endpoint that is not configured");
        let off = HttpSettings { health: HealthRoute::Off, ..settings("http://127.0.0.1:9") };
        if !name.starts_with("http") {
            assert_eq!(within(dialect.engine(off).health(0)).await.healthy, None, "{name}: not to be asked");
        }
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("hangs")
}

/// Waits for a state that another task brings about.
async fn until(state: impl Fn() -> bool) {
    within(async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
