//! `cargo xtask bench WHAT`: measurements that print numbers. What they need to run is built first.

mod autoscale;
mod chart;
mod connections;
mod filled;
pub(crate) mod instructions;
mod knee;
mod limiter;
mod live;
mod peer;
mod readers;
mod retention;
mod scale;
mod standard;

use anyhow::{Context, Result, bail};

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

/// The value at a share of sorted numbers, 0 for none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// Seconds since 1970 of a time such as `2026-01-31T12:00:00.250Z`.
fn seconds(text: &str) -> Result<f64> {
    let whole = || -> Option<f64> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        let mut clock = time.split(':').map(|part| part.parse::<f64>().ok());
        let (hours, minutes, rest) = (clock.next()??, clock.next()??, clock.next()??);
        // Days since 1970 in the Gregorian calendar, with years that begin in March.
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        let days =
            365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
        Some(days as f64 * 86_400.0 + hours * 3_600.0 + minutes * 60.0 + rest)
    };
    whole().with_context(|| format!("{text:?} is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, at) in [("1970-01-01T00:00:00Z", 0.0), ("2026-11-25T22:29:51.250Z", 1_795_645_791.25)] {
            assert_eq!(seconds(text).ok(), Some(at), "{text}");
        }
        assert!(seconds("yesterday").is_err());
    }
}
