//! `retry` of an engine: which of its failures are retried, how often and when.

use crate::config::checker::Checker;
use crate::config::near_miss::near_miss;
use crate::config::types::{Factor, Flag, Span, Text, Texts, Whole, section};
use enginehouse_core::failure::FailureKind;
use enginehouse_core::retry::RetryPolicy;
use enginehouse_core::time::DAY;
use enginehouse_runtime::RetryRule;

section! {
    /// Replaces parts of `fault_tolerance` for one engine's work.
    pub struct Retry {
        /// Attempts beyond the first.
        max_retries: Option<Whole<0, 1000>> = None;
        /// Bound of the first back-off.
        delay: Option<Span<0, DAY>> = None;
        /// How the bound grows with each retry.
        factor: Option<Factor> = None;
        /// Ceiling of the bound.
        max_delay: Option<Span<0, DAY>> = None;
        /// Failure kinds retried beside the usual ones.
        on: Texts = Texts::default();
        /// Failure kinds never retried.
        not_on: Texts = Texts::default();
        /// Rules for single failures, above their kinds; the first that matches decides.
        rules: Vec<RetryRuleRaw> = Vec::new();
    }

    /// Says of failures that look like this whether they are retried; what is not given matches anything.
    pub struct RetryRuleRaw {
        /// The failure's kind.
        kind: Option<Text> = None;
        /// The HTTP status of the engine's answer, or the exit status of a command.
        status: Option<Whole<0, 999>> = None;
        /// The failure's code.
        code: Option<Text> = None;
        /// A regular expression that is found in what the engine said.
        message: Option<Text> = None;
        /// Whether such failures are retried.
        retry: Flag = Flag(false);
    }
}

/// The most a regular expression may take once it is compiled.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// The policy that comes of `base`, and the rules above it; `path` is that of the engine.
pub(super) fn resolve(
    raw: &Retry,
    base: &RetryPolicy,
    path: &str,
    checker: &mut Checker<'_>,
) -> (RetryPolicy, Vec<RetryRule>) {
    let Retry { max_retries, delay, factor, max_delay, on, not_on, rules: written } = raw;
    let path = format!("{path}/retry");
    let rules = rules(written, &format!("{path}/rules"), checker);
    let mut kinds = |words: &Texts, key: &str| -> Vec<FailureKind> {
        let at = format!("{path}/{key}");
        words.0.iter().filter_map(|word| kind(word, &at, checker)).collect()
    };
    let policy = RetryPolicy {
        on: kinds(on, "on"),
        not_on: kinds(not_on, "not_on"),
        max_retries: max_retries.map_or(base.max_retries, Whole::get32),
        delay: delay.map_or(base.delay, |span| span.0),
        factor: factor.map_or(base.factor, |factor| factor.0),
        max_delay: max_delay.map_or(base.max_delay, |span| span.0),
    };
    if policy.delay > policy.max_delay {
        checker.fault(&format!("{path}/delay"), "must not be more than the engine's max_delay");
    }
    (policy, rules)
}

/// A failure kind by its word; a fault at `at` names the words there are.
fn kind(word: &str, at: &str, checker: &mut Checker<'_>) -> Option<FailureKind> {
    let found = FailureKind::parse(word);
    if found.is_none() {
        let known: Vec<&str> = FailureKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let near = near_miss(word, known.iter().copied());
        checker
            .fault(at, format!("{word:?} is not a failure kind{near}; the kinds are {}", known.join(", ")));
    }
    found
}

/// `path` is that of the list of rules.
fn rules(raw: &[RetryRuleRaw], path: &str, checker: &mut Checker<'_>) -> Vec<RetryRule> {
    let mut rules = Vec::new();
    for raw in raw {
        let RetryRuleRaw { kind: word, status, code, message, retry } = raw;
        let pattern = message.as_ref().and_then(|pattern| {
            let built = regex::RegexBuilder::new(&pattern.0).size_limit(PATTERN_BYTES_MAX).build();
            built.map_err(|error| checker.fault(path, format!("{:?}: {error}", pattern.0))).ok()
        });
        if word.is_none() && status.is_none() && code.is_none() && message.is_none() {
            checker.fault(path, "a rule without kind, status, code or message would match every failure");
        }
        rules.push(RetryRule {
            kind: word.as_ref().and_then(|word| kind(&word.0, path, checker)),
            status: status.and_then(|status| i32::try_from(status.0).ok()),
            code: code.as_ref().map(|code| code.0.clone()),
            message: pattern,
            retry: retry.0,
        });
    }
    rules
}
