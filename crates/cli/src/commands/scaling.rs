//! The number of workers: what it is, why, and by which rules.

use super::output::{Output, age, millis, printable};
use super::{Exit, Failure};
use clap::{Args, Subcommand};
use enginehouse_api::client::Client;
use enginehouse_api::{
    EngineInputs, PolicyWord, PredictWord, ScalingDecisionView, ScalingInputs, ScalingRequest, ScalingView,
    Span,
};

/// What to do with the number of workers.
#[derive(Debug, Args)]
pub(crate) struct Scaling {
    #[command(subcommand)]
    command: Option<ScalingCommand>,
}

#[derive(Debug, Subcommand)]
enum ScalingCommand {
    /// Show the workers, the rules and the newest decision
    Show,
    /// Explain the current number of workers
    ///
    /// Goes through the newest decision step by step: what was seen, what it means for the instant a worker launched now
    /// becomes useful, which rule gave the target its value, and what a shadow policy would do instead. With an id, the same
    /// of a decision that was kept.
    Explain {
        /// A decision of `enginehouse scaling decisions`
        id: Option<String>,
    },
    /// List decisions that changed the number of workers or were held back, the newest first
    Decisions {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Override configured rules at once; rules that are not given stay as configured
    Set(Box<RuleArgs>),
    /// Go back to the configured rules
    Reset,
}

/// The rules to change.
#[derive(Debug, Args)]
struct RuleArgs {
    #[arg(long, value_enum)]
    policy: Option<PolicyArg>,
    /// A policy that is asked as well and moves nothing; its decisions are shown beside the live one's
    #[arg(long, value_enum)]
    shadow: Option<PolicyArg>,
    #[arg(long)]
    min_workers: Option<u32>,
    #[arg(long)]
    max_workers: Option<u32>,
    /// 0 to 1
    #[arg(long)]
    target_utilization: Option<f64>,
    /// 0 to 1
    #[arg(long)]
    scale_up_threshold: Option<f64>,
    /// 0 to 1
    #[arg(long)]
    scale_down_threshold: Option<f64>,
    #[arg(long, value_name = "DURATION")]
    scale_up_cooldown: Option<Span>,
    #[arg(long, value_name = "DURATION")]
    scale_down_cooldown: Option<Span>,
    /// How long an execution may wait for its start
    #[arg(long, value_name = "DURATION")]
    slo_wait: Option<Span>,
    /// What one late execution is worth, in seconds of one worker
    #[arg(long)]
    late_cost: Option<f64>,
    #[arg(long, value_name = "DURATION")]
    retention: Option<Span>,
    #[arg(long)]
    tolerance: Option<f64>,
    #[arg(long, value_enum)]
    predict: Option<PredictArg>,
    /// Reason, recorded with the change
    #[arg(long)]
    reason: Option<String>,
    /// Back to the configuration after this time, such as 2h
    #[arg(long = "for", value_name = "DURATION")]
    span: Option<Span>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PolicyArg {
    /// By the slots expected to be in use when a worker launched now becomes useful
    #[value(name = "lead_time", alias = "lead-time")]
    LeadTime,
    /// By utilization alone
    Threshold,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PredictArg {
    On,
    Shadow,
    Off,
}

impl From<PolicyArg> for PolicyWord {
    fn from(arg: PolicyArg) -> PolicyWord {
        match arg {
            PolicyArg::LeadTime => PolicyWord::LeadTime,
            PolicyArg::Threshold => PolicyWord::Threshold,
        }
    }
}

impl From<PredictArg> for PredictWord {
    fn from(arg: PredictArg) -> PredictWord {
        match arg {
            PredictArg::On => PredictWord::On,
            PredictArg::Shadow => PredictWord::Shadow,
            PredictArg::Off => PredictWord::Off,
        }
    }
}

impl RuleArgs {
    fn request(self) -> ScalingRequest {
        ScalingRequest {
            policy: self.policy.map(PolicyWord::from),
            shadow: self.shadow.map(PolicyWord::from),
            min_workers: self.min_workers,
            max_workers: self.max_workers,
            target_utilization: self.target_utilization,
            scale_up_threshold: self.scale_up_threshold,
            scale_down_threshold: self.scale_down_threshold,
            scale_up_cooldown: self.scale_up_cooldown,
            scale_down_cooldown: self.scale_down_cooldown,
            slo_wait: self.slo_wait,
            late_cost: self.late_cost,
            retention: self.retention,
            tolerance: self.tolerance,
            predict: self.predict.map(PredictWord::from),
            reason: self.reason,
            span: self.span,
        }
    }
}

impl Scaling {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self.command.unwrap_or(ScalingCommand::Show) {
            ScalingCommand::Show => show(&client.scaling().await?, output),
            ScalingCommand::Explain { id: None } => explain_now(&client.scaling().await?, output),
            ScalingCommand::Explain { id: Some(id) } => explain_kept(client, &id, output).await,
            ScalingCommand::Decisions { limit } => decisions(client, limit, output).await,
            ScalingCommand::Set(change) => {
                let request = change.request();
                if request == ScalingRequest::default() {
                    return Err(Failure::usage(
                        "nothing to change is given; see enginehouse scaling set --help".to_owned(),
                    ));
                }
                show(&client.set_scaling(&request).await?, output)
            }
            ScalingCommand::Reset => show(&client.set_scaling(&ScalingRequest::default()).await?, output),
        }
    }
}

fn show(scaling: &ScalingView, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(scaling)?;
        return Ok(Exit::Done);
    }
    let rules = &scaling.rules;
    let changed = scaling.changed.as_ref().map(|change| {
        let why =
            change.rules.reason.as_deref().map(printable).unwrap_or_else(|| "no reason given".to_owned());
        let until = change.until.map_or("until told otherwise".to_owned(), |until| format!("until {until}"));
        format!("{why}; {until}")
    });
    output.fields(&[
        (
            "target",
            Some(format!("{} workers ({} to {})", scaling.target, rules.min_workers, rules.max_workers)),
        ),
        (
            "there are",
            Some(format!(
                "{} ready, {} starting, {} draining",
                scaling.ready, scaling.starting, scaling.draining
            )),
        ),
        ("slots in use", Some(format!("{} of {}", scaling.busy_slots, scaling.slots))),
        ("a start takes", Some(millis(scaling.startup_time_ms as f64))),
        ("policy", Some(policy(rules.policy).to_owned())),
        ("changed by hand", changed),
        ("why", scaling.decision.as_ref().map(|decision| printable(&decision.reason))),
        ("rule", scaling.decision.as_ref().map(|decision| decision.rule.clone())),
        (
            "confidence",
            scaling.decision.as_ref().map(|decision| format!("{:.0} %", decision.confidence * 100.0)),
        ),
        ("shadow", scaling.shadow.as_ref().map(shadow)),
    ])?;
    Ok(Exit::Done)
}

fn policy(word: PolicyWord) -> &'static str {
    match word {
        PolicyWord::LeadTime => "lead_time",
        PolicyWord::Threshold => "threshold",
    }
}

fn shadow(decision: &ScalingDecisionView) -> String {
    format!(
        "{} would have {}: {}",
        policy(decision.policy),
        decision.target_worker_count,
        printable(&decision.reason)
    )
}

fn explain_now(scaling: &ScalingView, output: &mut Output) -> Result<Exit, Failure> {
    let Some(decision) = &scaling.decision else {
        return Err(Failure::call(
            "nothing was decided yet; this node may not be the one that schedules".to_owned(),
        ));
    };
    explain(decision, scaling.shadow.as_ref().map(shadow), output)
}

async fn explain_kept(client: &Client, id: &str, output: &mut Output) -> Result<Exit, Failure> {
    let all = client.scaling_decisions(1_000).await?.decisions;
    let Some(decision) = all.into_iter().find(|decision| decision.id.as_deref() == Some(id)) else {
        return Err(Failure::call(format!("no decision {id} is kept; see enginehouse scaling decisions")));
    };
    let beside = decision.shadow.as_ref().map(|shadow| {
        let reason = printable(&shadow.reason);
        format!("{} would have {}: {reason}", policy(shadow.policy), shadow.target_worker_count)
    });
    explain(&decision, beside, output)
}

/// A decision step by step.
fn explain(
    decision: &ScalingDecisionView,
    beside: Option<String>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if output.is_json() {
        output.document(decision)?;
        return Ok(Exit::Done);
    }
    output.line(&format!("Why {}? {}", decision.target_worker_count, printable(&decision.reason)))?;
    output.line("")?;
    output.fields(&steps(decision, beside))?;
    let rows: Vec<Vec<String>> = decision.inputs.engines.iter().map(engine_row).collect();
    if !rows.is_empty() {
        output.line("")?;
        output.table(
            &["ENGINE", "RUNNING", "QUEUED", "IT TAKES", "LIMIT", "SPEED", "PER SECOND", "MEAN RUN", ""],
            &rows,
        )?;
    }
    Ok(Exit::Done)
}

/// From what was seen to what came of it.
fn steps(decision: &ScalingDecisionView, beside: Option<String>) -> Vec<(&'static str, Option<String>)> {
    let seen = &decision.inputs;
    vec![
        ("decided", Some(decision.at.to_string())),
        ("by", Some(format!("{} policy, rule {}", policy(decision.policy), decision.rule))),
        (
            "workers then",
            Some(format!("{} ready, {} starting, {} draining", seen.ready, seen.starting, seen.draining)),
        ),
        (
            "slots in use",
            Some(format!("{} ({:.0} % of the ready workers')", seen.busy_slots, seen.utilization * 100.0)),
        ),
        ("waiting", Some(waiting(seen))),
        ("arrivals", Some(format!("{:.2} per second, a load of {:.1} slots", seen.lambda, seen.load))),
        ("looks ahead", Some(ahead(seen))),
        (
            "expected then",
            Some(format!(
                "{:.1} slots in use, give or take {:.1}",
                seen.expected,
                seen.variance.max(0.0).sqrt()
            )),
        ),
        (
            "wanted",
            Some(format!(
                "{:.1} slots with headroom, so {} workers before bounds and memory",
                seen.want, seen.computed
            )),
        ),
        (
            "recurring",
            (seen.recurring > 0.0)
                .then(|| format!("{:.0} slots are announced by what came back before", seen.recurring)),
        ),
        (
            "for bursts",
            (seen.standby > 0).then(|| {
                format!(
                    "{} workers are worth it: over about the last 20 minutes that would have kept {:.0} jobs from being late, for {:.0} s of workers",
                    seen.standby, seen.standby_saves, seen.standby_costs_s
                )
            }),
        ),
        ("due soon", (seen.due_soon > 0).then(|| format!("{} scheduled executions", seen.due_soon))),
        ("machine allows", seen.guard.map(|most| format!("{most} workers"))),
        ("confidence", Some(format!("{:.0} %", decision.confidence * 100.0))),
        (
            "outcome",
            decision.outcome.map(|outcome| match outcome.reached_after_ms {
                Some(ms) => format!("reached after {}", millis(ms as f64)),
                None => "another decision came first".to_owned(),
            }),
        ),
        ("shadow", beside),
    ]
}

fn engine_row(engine: &EngineInputs) -> Vec<String> {
    vec![
        engine.name.clone(),
        engine.running.to_string(),
        engine.queued.to_string(),
        engine.admissible.to_string(),
        engine.limit.map_or("-".to_owned(), |limit| limit.to_string()),
        format!("{:.2}", engine.speed),
        format!("{:.2}", engine.lambda),
        millis(engine.mean_run_s * 1_000.0),
        if engine.parked { "parked" } else { "" }.to_owned(),
    ]
}

fn waiting(seen: &ScalingInputs) -> String {
    if seen.queued == 0 {
        return "nothing".to_owned();
    }
    format!("{} executions, the first for {}", seen.queued, millis(seen.oldest_wait_s * 1_000.0))
}

fn ahead(seen: &ScalingInputs) -> String {
    let start = millis(seen.startup_s * 1_000.0);
    if seen.lead_s > 0.0 {
        format!("{}: a worker takes {start} to start", millis(seen.lead_s * 1_000.0))
    } else {
        format!(
            "no further than now: a worker takes {start} to start, and waits of {} are fine",
            millis(seen.slack_s * 1_000.0)
        )
    }
}

async fn decisions(client: &Client, limit: u32, output: &mut Output) -> Result<Exit, Failure> {
    let answer = client.scaling_decisions(limit).await?;
    let now = jiff::Timestamp::now();
    let head = ["ID", "AGE", "ACTION", "WORKERS", "RULE", "REACHED IN", "REASON"];
    output.list(&answer, &head, &answer.decisions, |decision| {
        let outcome = decision.outcome.map_or("-".to_owned(), |outcome| {
            outcome.reached_after_ms.map_or("superseded".to_owned(), |ms| millis(ms as f64))
        });
        vec![
            decision.id.clone().unwrap_or_default(),
            age(decision.at, now),
            decision.action.replace('_', " "),
            format!("{} -> {}", decision.current_worker_count, decision.target_worker_count),
            decision.rule.clone(),
            outcome,
            printable(&decision.reason),
        ]
    })
}
