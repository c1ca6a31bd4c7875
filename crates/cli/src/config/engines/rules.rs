//! `retry.rules` and `rate_limit` of an engine.

use super::super::checker::Checker;
use super::super::near_miss::near_miss;
use super::super::types::Rate;
use super::Retry;
use enginehouse_core::failure::FailureKind;
use enginehouse_core::pace;
use enginehouse_core::time::{HOUR, MINUTE, SECOND};
use enginehouse_runtime::RetryRule;

/// The most a regular expression may take once it is compiled.
const PATTERN_BYTES_MAX: usize = 256 << 10;

pub(super) fn rate(raw: &Rate) -> pace::Rate {
    let per = match raw.per {
        'h' => HOUR,
        'm' => MINUTE,
        _ => SECOND,
    };
    pace::Rate { starts: raw.count, per }
}

/// A failure kind by its word; a fault at `at` names the words there are.
pub(super) fn kind(word: &str, at: &str, checker: &mut Checker<'_>) -> Option<FailureKind> {
    let found = FailureKind::parse(word);
    if found.is_none() {
        let known: Vec<&str> = FailureKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let near = near_miss(word, known.iter().copied());
        checker
            .fault(at, format!("{word:?} is not a failure kind{near}; the kinds are {}", known.join(", ")));
    }
    found
}

pub(super) fn resolve(retry: Option<&Retry>, path: &str, checker: &mut Checker<'_>) -> Vec<RetryRule> {
    let at = format!("{path}/retry/rules");
    let mut rules = Vec::new();
    for raw in retry.iter().flat_map(|retry| &retry.rules) {
        let message = raw.message.as_ref().and_then(|pattern| {
            let built = regex::RegexBuilder::new(&pattern.0).size_limit(PATTERN_BYTES_MAX).build();
            built.map_err(|error| checker.fault(&at, format!("{:?}: {error}", pattern.0))).ok()
        });
        if raw.kind.is_none() && raw.status.is_none() && raw.code.is_none() && raw.message.is_none() {
            checker.fault(&at, "a rule without kind, status, code or message would match every failure");
        }
        rules.push(RetryRule {
            kind: raw.kind.as_ref().and_then(|word| kind(&word.0, &at, checker)),
            status: raw.status.and_then(|status| i32::try_from(status.0).ok()),
            code: raw.code.as_ref().map(|code| code.0.clone()),
            message,
            retry: raw.retry.0,
        });
    }
    rules
}
