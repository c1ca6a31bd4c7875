//! `cargo xtask bench WHAT`: measurements that print numbers. What they need to run is built first.

mod autoscale;
mod chart;
mod connections;
mod filled;
pub(crate) mod instructions;
mod knee;
mod limiter;
mod live;
mod numbers;
mod peer;
mod readers;
mod retention;
mod scale;
mod standard;

use anyhow::{Result, bail};

const HELP: &str = "\
Measurements; each prints its numbers and says where its charts lie.

Usage: cargo xtask bench WHAT [--help]

  autoscale  what one decision of the auto-scaler costs, and what each part of it is worth
  connections  thousands of idle connections and event streams: what the usual load notices of them
  instructions  what one execution takes on the core path, counted under valgrind; held still by CI
  limiter    what is completed on an engine that degrades under load: with each fixed limit, with the
             adaptive one, and without any; in virtual time, a minute or two
  knee       an engine that gets slower with concurrency: what the pool and the limit do, with both policies
  peer       the service as one of the peers of a queue benchmark; `bench/peers.py` runs them side by side
  readers    a thousand readers of the service's events, some of whom never read
  retention  a million finished executions, most of them removed: time, what submits notice, bytes on disk
  scale      a million finished executions and as many that wait: what submits, the whole way, lists and a
             start notice of them
  standard   submits, batches, the whole way, and the seed workloads, each on a fresh service
  live       a trace at twenty times its speed against real workers, beside what the lab says of the same
             traffic
";

pub(crate) fn command(args: &[String]) -> Result<()> {
    match args.split_first() {
        Some((what, rest)) if what == "autoscale" => autoscale::command(rest),
        Some((what, rest)) if what == "instructions" => instructions::command(rest),
        Some((what, rest)) if what == "live" => live::command(rest),
        Some((what, _)) if what == "limiter" => limiter::run(),
        Some((what, rest)) if what == "peer" => peer::command(rest),
        Some((what, rest)) if what == "readers" => readers::command(rest),
        Some((what, rest)) if what == "standard" => standard::command(rest),
        Some((what, rest)) if what == "connections" => connections::command(rest),
        Some((what, rest)) if what == "scale" => scale::command(rest),
        Some((what, rest)) if what == "retention" => retention::command(rest),
        Some((what, rest)) if what == "knee" => knee::command(rest),
        Some((what, _)) if !what.starts_with('-') => bail!("there is no measurement {what:?}\n\n{HELP}"),
        _ => {
            print!("{HELP}");
            Ok(())
        }
    }
}
