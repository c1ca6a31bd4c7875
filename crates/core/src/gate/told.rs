//! What is told of an endpoint's limit: who decided it, since when, on what evidence, what it has cost, and what to do.

use super::Gate;
use crate::limiter::{Cause, Holding, Lowered, Mode, Slowness};
use crate::time::{DAY, Millis, SECOND, Time};

/// A limit that held work back at a look within this time still does: between a run's end and the next start there is room.
const LATELY: Millis = 5 * SECOND;

/// Why as many calls at once are in force as are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitWhy {
    /// `max_concurrency` says so.
    Configured,
    /// The endpoint is slow, and fewer at once are tried out.
    Experiment,
    /// It was slow, and with fewer at once it was faster.
    SlowerWithMore,
    /// It answered that it is too much.
    TooManyRequests,
    /// There is no limit: it is slow, and fewer at once were not clearly faster.
    SlowAnyway,
}

impl LimitWhy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LimitWhy::Configured => "configured",
            LimitWhy::Experiment => "experiment",
            LimitWhy::SlowerWithMore => "slower_with_more",
            LimitWhy::TooManyRequests => "too_many_requests",
            LimitWhy::SlowAnyway => "slow_anyway",
        }
    }
}

/// A limit in words, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitTold {
    pub why: LimitWhy,
    pub text: String,
    /// How to change it; `None`: there is nothing to change.
    pub remedy: Option<String>,
}

impl Gate {
    /// What is to be told of an endpoint's limit; `None` where nothing bounds it and nothing is wrong.
    #[must_use]
    pub fn limit_told(&self, engine: &str, at: u32, now: Time) -> Option<LimitTold> {
        let endpoint = self.endpoint(at)?;
        let place = self.place(engine, at);
        if let Some(holding) = self.holding(at) {
            let why = why(endpoint.limiter.mode(), holding);
            let text = self.learned(&place, at, holding, why, now);
            let remedy = format!("`adaptive = false` in {} switches it off", table(engine));
            return Some(LimitTold { why, text, remedy: Some(remedy) });
        }
        if let Some(most) = self.rules.max_concurrency {
            let text = format!("{place} runs at most {most} at once: its `max_concurrency`");
            let remedy = format!("a higher `max_concurrency` in {} lets more run", table(engine));
            return Some(LimitTold { why: LimitWhy::Configured, text, remedy: Some(remedy) });
        }
        let slow = self.rules.adaptive && endpoint.limiter.mode() == Mode::External;
        slow.then(|| LimitTold {
            why: LimitWhy::SlowAnyway,
            text: format!(
                "{place} has no limit: it works at {:.0} % of its usual speed, and fewer at once were not clearly faster",
                endpoint.limiter.speed() * 100.0
            ),
            remedy: None,
        })
    }

    /// The same of one that takes nothing more, for an execution that waits for it.
    #[must_use]
    pub fn full_told(&self, engine: &str, at: u32, now: Time) -> String {
        let place = self.place(engine, at);
        match (self.limit_told(engine, at, now), self.rules.max_concurrency) {
            (Some(told), _) if told.why != LimitWhy::Configured => {
                let remedy = told.remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
                format!("the adaptive limit holds it back: {}{remedy}", told.text)
            }
            (_, Some(most)) => {
                let each = if self.endpoints.len() > 1 { " per endpoint" } else { "" };
                format!(
                    "engine {engine} runs as many as it may: its `max_concurrency` of {most}{each} is used up"
                )
            }
            _ => format!("{place} runs as many as it may"),
        }
    }

    /// What is to be told of a learned limit that holds work back although its endpoint is no faster than before there was one;
    /// `None` where there is no such limit.
    #[must_use]
    pub fn holds_in_vain(&self, engine: &str, at: u32, now: Time) -> Option<String> {
        let (holding, limiter) = (self.holding(at)?, &self.endpoint(at)?.limiter);
        let lately = holding.held_at.is_some_and(|held| now.since(held) <= LATELY);
        (lately && !limiter.speed_rose()).then(|| {
            format!(
                "work waits for the adaptive limit of {} calls at once on {}, and has waited {} in all since {}; its speed was \
                 {:.0} % of the usual before there was a limit and is {:.0} % now",
                self.limit(at).unwrap_or(holding.lowered.to),
                self.place(engine, at),
                waited(holding.waited_s),
                instant(holding.since, now),
                holding.speed_before * 100.0,
                limiter.speed() * 100.0
            )
        })
    }

    fn place(&self, engine: &str, at: u32) -> String {
        match self.rules.endpoints.get(at as usize).filter(|_| self.rules.endpoints.len() > 1) {
            Some(name) => format!("endpoint {name} of engine {engine}"),
            None => format!("engine {engine}"),
        }
    }

    fn learned(&self, place: &str, at: u32, holding: &Holding, why: LimitWhy, now: Time) -> String {
        let Lowered { at: lowered_at, from, to, cause } = holding.lowered;
        let before = match (from, self.rules.max_concurrency) {
            (Some(from), _) => from.to_string(),
            (None, Some(most)) => format!("its `max_concurrency` of {most}"),
            (None, None) => "none".to_owned(),
        };
        let mut text = format!(
            "Enginehouse lowered the limit of {place} from {before} to {to} {}, because {}",
            clock(lowered_at, now),
            because(cause)
        );
        text.push_str(match why {
            LimitWhy::Experiment => {
                "; this is an experiment, as a rule a short one: if fewer at once are not clearly faster, the limit goes up again"
            }
            LimitWhy::TooManyRequests => "; it is raised again as the engine's answers allow",
            _ => "; fewer at once were faster, so it stays, and it is raised from time to time to see whether it should",
        });
        if let Some(current) = self.limit(at).filter(|current| *current != to) {
            text.push_str(&format!("; it is {current} now"));
        }
        if holding.since < lowered_at {
            text.push_str(&format!("; there has been a limit since {}", instant(holding.since, now)));
        }
        text.push_str(&format!("; work has waited {} for it in all", waited(holding.waited_s)));
        text
    }
}

fn why(mode: Mode, holding: &Holding) -> LimitWhy {
    match (mode, holding.lowered.cause) {
        (Mode::Cut, _) => LimitWhy::Experiment,
        (_, Cause::Refused) => LimitWhy::TooManyRequests,
        (_, Cause::Slow(_)) => LimitWhy::SlowerWithMore,
    }
}

fn because(cause: Cause) -> String {
    let Cause::Slow(slow) = cause else {
        return "the engine answered that it is too much (429 or 503)".to_owned();
    };
    let Slowness { usual_s, run_s, ended, expected, seconds, .. } = slow;
    match run_s {
        Some(run_s) if run_s > usual_s => format!(
            "runs took about {} instead of {} ({ended:.0} ended in {}, where {expected:.0} would at the usual speed)",
            span(run_s),
            span(usual_s),
            span(seconds)
        ),
        // Where short and long runs take turns, those that ended say little about those that did not.
        Some(_) => format!(
            "{ended:.0} runs ended in {}, where {expected:.0} would at the usual speed",
            span(seconds)
        ),
        None => format!("no run ended in {}, where {expected:.0} would at the usual speed", span(seconds)),
    }
}

/// The table of the configuration that holds an engine's settings.
fn table(engine: &str) -> String {
    if engine.contains('.') { format!("[engines.\"{engine}\"]") } else { format!("[engines.{engine}]") }
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 0.995 => format!("{:.0} ms", s * 1_000.0),
        s if s < 9.95 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// Seconds of many together.
fn waited(seconds: f64) -> String {
    match seconds {
        s if s < 600.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

/// An instant in UTC; with its day where the time alone could be taken for another's.
fn instant(at: Time, now: Time) -> String {
    let (day, time) = at.utc();
    if now.since(at) < DAY / 2 { format!("{time} UTC") } else { format!("{day} {time} UTC") }
}

fn clock(at: Time, now: Time) -> String {
    let word = if now.since(at) < DAY / 2 { "at" } else { "on" };
    format!("{word} {}", instant(at, now))
}

#[cfg(test)]
mod tests;
