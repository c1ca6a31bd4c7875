//! What an engine lets in now: breakers and adaptive limits per endpoint, a rate and a retry budget per engine.
//!
//! The machines are fed by the events of attempts, whichever node they ran on, so the elected scheduler sees all of
//! them. They are small, they are stored as one document per engine, and they hold nothing that a lost report could leak:
//! what runs is asked of the queue's leases ([`Gates::retain`]).

use crate::balance::{self, BalanceDoc, BalanceRules, Balancer, Candidate, Draws};
use crate::breaker::{Breaker, BreakerChange, BreakerRules, Forced, Sign};
use crate::event::{Event, EventType};
use crate::failure::{Failure, FailureKind};
use crate::id::Key;
use crate::limiter::{CallEnd, Holding, Limiter, LimiterRules};
use crate::limits::{ENGINE_FREEZE_DEFAULT, ENGINE_FREEZE_MAX};
use crate::pace::{Rate, RetryBudget, RetryBudgetRules, TokenBucket};
use crate::planted::{self, Bug};
use crate::reason::Reason;
use crate::time::{Millis, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One engine's settings, as its gate needs them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GateRules {
    pub breaker: BreakerRules,
    /// Starts per time; `None`: any number.
    pub rate: Option<Rate>,
    pub retry_budget: RetryBudgetRules,
    /// Whether endpoints have an adaptive limit below `max_concurrency`.
    pub adaptive: bool,
    /// Configured calls at once per endpoint.
    pub max_concurrency: Option<u32>,
    /// How starts are spread over the endpoints.
    pub balance: BalanceRules,
    /// Slots of all workers there may be: the most that can be asked of an endpoint where nothing is configured.
    pub slots_max: Option<u32>,
    /// Names of the endpoints, in order: what is stored is found again by them when the order changes.
    pub endpoints: Vec<String>,
}

/// One endpoint's machines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndpointGate {
    pub breaker: Breaker,
    pub limiter: Limiter,
    /// The engine asked for patience (429, or 503 with `Retry-After`): nothing starts before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_until: Option<Time>,
    /// The code of the last failure that said that the engine is unwell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_unwell: Option<String>,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Gate {
    rules: GateRules,
    endpoints: Vec<EndpointGate>,
    balancer: Balancer,
    bucket: Option<TokenBucket>,
    budget: RetryBudget,
}

/// Why an endpoint takes nothing more now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shut {
    /// It is full: its configured or its adaptive limit.
    Full,
    /// It is far worse than its peers and left alone for a while.
    Ejected { until: Time },
    /// It asked for patience.
    Frozen { until: Time },
    /// Its breaker holds work back.
    Parked { until: Option<Time> },
}

/// A breaker's change, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateChange {
    pub engine: String,
    pub endpoint: u32,
    pub change: BreakerChange,
}

/// A gate as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GateDoc {
    endpoints: BTreeMap<String, EndpointGate>,
    #[serde(default)]
    balance: BTreeMap<String, BalanceDoc>,
    budget: RetryBudget,
}

impl Gate {
    #[must_use]
    pub fn new(rules: GateRules, now: Time) -> Gate {
        let fresh = || EndpointGate {
            breaker: Breaker::default(),
            limiter: Limiter::new(limiter_rules(&rules)),
            frozen_until: None,
            last_unwell: None,
        };
        let endpoints = rules.endpoints.iter().map(|_| fresh()).collect();
        let bucket = rules.rate.map(|rate| TokenBucket::new(rate, now));
        let balancer = Balancer::new(rules.balance, &rules.endpoints);
        Gate { rules, endpoints, balancer, bucket, budget: RetryBudget::default() }
    }

    #[must_use]
    pub fn endpoint(&self, at: u32) -> Option<&EndpointGate> {
        self.endpoints.get(at as usize)
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &EndpointGate> {
        self.endpoints.iter()
    }

    #[must_use]
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    pub fn breaker_mut(&mut self, at: u32) -> Option<&mut Breaker> {
        self.endpoints.get_mut(at as usize).map(|e| &mut e.breaker)
    }

    #[must_use]
    pub fn rules(&self) -> &GateRules {
        &self.rules
    }

    /// Whether the rate lets one more start now.
    #[must_use]
    pub fn has_token(&self, now: Time) -> bool {
        self.bucket.as_ref().is_none_or(|b| b.has_token(now))
    }

    #[must_use]
    pub fn next_token(&self, now: Time) -> Time {
        self.bucket.as_ref().map_or(now, |b| b.next_token(now))
    }

    #[must_use]
    pub fn may_retry(&self, now: Time) -> bool {
        self.budget.has_room(&self.rules.retry_budget, now)
    }

    /// Retries that may start now, and when more may.
    #[must_use]
    pub fn retries_left(&self, now: Time) -> (f64, Time) {
        (self.budget.left(&self.rules.retry_budget, now), self.budget.next_room(now))
    }

    /// The calls at once that are in force at an endpoint: the least of what is configured and what was learned.
    #[must_use]
    pub fn limit(&self, at: u32) -> Option<u32> {
        let learned = self.endpoint(at).filter(|_| self.rules.adaptive).and_then(|e| e.limiter.limit());
        match (self.rules.max_concurrency, learned) {
            (Some(configured), Some(learned)) => Some(configured.min(learned)),
            (configured, learned) => configured.or(learned),
        }
    }

    /// The account of the learned limit, where that is the one in force.
    #[must_use]
    pub fn holding(&self, at: u32) -> Option<&Holding> {
        let limiter = &self.endpoint(at).filter(|_| self.rules.adaptive)?.limiter;
        let learned = limiter.limit()?;
        limiter.holding().filter(|_| self.rules.max_concurrency.is_none_or(|most| learned < most))
    }

    /// Why the endpoint takes nothing more while `used` calls hold its room; `None` when it does.
    #[must_use]
    pub fn shut(&self, at: u32, used: u32, now: Time) -> Option<Shut> {
        let endpoint = self.endpoint(at)?;
        if endpoint.breaker.parks(now) {
            return Some(Shut::Parked { until: endpoint.breaker.next_probe() });
        }
        let frozen = endpoint.frozen_until.filter(|_| !planted::has(Bug::FreezeIgnored));
        if let Some(until) = frozen.filter(|until| now < *until) {
            return Some(Shut::Frozen { until });
        }
        let full = self.limit(at).is_some_and(|limit| used >= limit) && !planted::has(Bug::LimitIgnored);
        full.then_some(Shut::Full)
    }

    /// The same for a start that may be bound to the endpoint. One that is not also keeps away from an endpoint that is far
    /// worse than its peers, unless those are all parked.
    #[must_use]
    pub fn shut_to(&self, bound: bool, at: u32, used: u32, now: Time) -> Option<Shut> {
        self.shut(at, used, now).or_else(|| {
            if bound {
                return None;
            }
            let until = self.balancer.ejected(at, now)?;
            let mut peers = (0u32..).zip(&self.endpoints).filter(|(peer, _)| self.balancer.is_in(*peer));
            peers.any(|(_, peer)| !peer.breaker.parks(now)).then_some(Shut::Ejected { until })
        })
    }

    /// A call is to start.
    pub fn started(&mut self, at: u32, key: Key, retry: bool, now: Time) {
        if let Some(endpoint) = self.endpoints.get_mut(at as usize) {
            endpoint.breaker.started(key);
            endpoint.limiter.started(key, now);
        }
        self.balancer.started(at, key);
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now);
        }
        if retry {
            self.budget.take(now);
        }
    }

    /// A call that was to start did not.
    pub fn unstarted(&mut self, at: u32, key: Key, retry: bool, now: Time) {
        if let Some(endpoint) = self.endpoints.get_mut(at as usize) {
            endpoint.breaker.unstarted(key);
            endpoint.limiter.ended(key, CallEnd::Apart, now);
        }
        self.balancer.unstarted(at, key);
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back();
        }
        if retry {
            self.budget.give_back();
        }
    }

    /// A call that runs already, found when the queue was read again.
    pub fn adopt(&mut self, at: u32, key: Key, since: Time) {
        if let Some(endpoint) = self.endpoints.get_mut(at as usize) {
            endpoint.limiter.started(key, since);
        }
    }

    /// Takes in an event of an execution that ran at the endpoint; `retry`: the attempt was one of the retry budget.
    pub fn observe(
        &mut self,
        at: u32,
        key: Key,
        event: &Event,
        retry: bool,
        now: Time,
    ) -> Option<BreakerChange> {
        let refused = event.data.reason == Some(Reason::Refused);
        if refused && retry {
            self.budget.give_back();
        }
        let rules = self.rules.breaker;
        let endpoint = self.endpoints.get_mut(at as usize)?;
        if event.kind == EventType::ExecutionAttached {
            return endpoint.breaker.accepted(key, now);
        }
        let failure = event.data.failure.as_ref();
        let (sign, ended) = match (event.kind, failure) {
            (EventType::ExecutionCompleted, _) => {
                self.budget.succeeded(now);
                (Sign::Answered, CallEnd::Answered)
            }
            (EventType::ExecutionFailed | EventType::ExecutionRetrying, Some(failure)) => {
                let retry_after = event.data.retry_after;
                if let Some(patience) = patience_of(failure, retry_after) {
                    endpoint.frozen_until = endpoint.frozen_until.max(Some(now.plus(patience)));
                }
                let sign = sign_of(failure, event);
                if sign == Sign::Unwell {
                    endpoint.last_unwell = Some(failure.code.clone());
                }
                (sign, load_of(failure, retry_after))
            }
            (EventType::ExecutionInterrupted | EventType::ExecutionCancelled, _) => {
                (Sign::Nothing, CallEnd::Unknown)
            }
            _ => return None,
        };
        // A refusal takes no time, and must not make an endpoint look fast.
        let ran = !matches!(ended, CallEnd::Overloaded { .. });
        let took = endpoint.limiter.since(key).filter(|_| ran).map(|since| now.since(since));
        endpoint.limiter.ended(key, ended, now);
        self.balancer.ended(at, key, sign, took, now);
        endpoint.breaker.ended(&rules, key, sign, now)
    }

    fn set_rules(&mut self, rules: GateRules, now: Time) {
        let doc = self.doc();
        let bucket = self.bucket.take();
        *self = Gate::new(rules, now);
        if let (Some(mut kept), Some(rate)) = (bucket, self.rules.rate) {
            kept.set_rate(rate);
            self.bucket = Some(kept);
        }
        self.restore(doc);
    }

    fn doc(&self) -> GateDoc {
        let named = self.rules.endpoints.iter().cloned().zip(self.endpoints.iter().cloned());
        let balance = self.rules.endpoints.iter().cloned().zip(self.balancer.docs());
        GateDoc { endpoints: named.collect(), balance: balance.collect(), budget: self.budget.clone() }
    }

    fn restore(&mut self, mut doc: GateDoc) {
        let rules = limiter_rules(&self.rules);
        for (name, endpoint) in self.rules.endpoints.iter().zip(&mut self.endpoints) {
            if let Some(stored) = doc.endpoints.remove(name) {
                // A node that does not decide for a moment reads what may be older than what it heard itself, and what the
                // endpoint asked for holds all the same.
                let frozen_until = endpoint.frozen_until.max(stored.frozen_until);
                *endpoint = EndpointGate { frozen_until, ..stored };
                endpoint.limiter.set_rules(rules);
            }
        }
        for (at, name) in (0u32..).zip(&self.rules.endpoints) {
            if let Some(stored) = doc.balance.remove(name) {
                self.balancer.restore(at, stored);
            }
        }
        self.budget = doc.budget;
    }
}

fn limiter_rules(rules: &GateRules) -> LimiterRules {
    LimiterRules { max: rules.max_concurrency.or(rules.slots_max), ..LimiterRules::default() }
}

/// What a failure says of the engine.
fn sign_of(failure: &Failure, event: &Event) -> Sign {
    let kind = match failure.kind {
        // The row had to end; what the attempt itself met stands in the reason.
        FailureKind::UnknownOutcome => match event.data.reason {
            Some(Reason::Attempt(kind)) => Some(kind),
            _ => None,
        },
        kind => Some(kind),
    };
    match kind {
        Some(kind) if kind.counts_for_breaker() => Sign::Unwell,
        None | Some(FailureKind::Timeout | FailureKind::Lost | FailureKind::Expired) => Sign::Nothing,
        Some(_) => Sign::Answered,
    }
}

/// How long the engine asked to be left alone, or `None` if it did not ask. A busy answer asks by itself; one that is out of
/// service asks only with a `Retry-After`, because without it the breaker and the limit know better when to try again.
fn patience_of(failure: &Failure, retry_after: Option<Millis>) -> Option<Millis> {
    let asked = match failure.kind {
        FailureKind::RateLimited => retry_after.or(Some(ENGINE_FREEZE_DEFAULT)),
        FailureKind::Unavailable => retry_after,
        _ => None,
    };
    asked.map(|patience| patience.min(ENGINE_FREEZE_MAX))
}

/// What a failure says of the engine's load. A time limit that passed is no sign: it may be too short for its workflow.
fn load_of(failure: &Failure, retry_after: Option<Millis>) -> CallEnd {
    match failure.kind {
        FailureKind::RateLimited => CallEnd::Overloaded { retry_after },
        FailureKind::Unavailable if failure.engine_status == Some(503) => CallEnd::Overloaded { retry_after },
        FailureKind::Timeout => CallEnd::Unknown,
        // A workflow that fails ends sooner or later than one that succeeds, so its time teaches nothing.
        _ => CallEnd::Apart,
    }
}

/// The gates of all engines, by name. An engine without one lets everything in.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    gates: BTreeMap<String, Gate>,
    draws: Draws,
}

impl Gates {
    #[must_use]
    pub fn get(&self, engine: &str) -> Option<&Gate> {
        self.gates.get(engine)
    }

    pub fn get_mut(&mut self, engine: &str) -> Option<&mut Gate> {
        self.gates.get_mut(engine)
    }

    /// Sets an engine's rules; what was learned stays.
    pub fn set(&mut self, engine: &str, rules: GateRules, now: Time) {
        match self.gates.get_mut(engine) {
            Some(gate) if gate.rules == rules => {}
            Some(gate) => gate.set_rules(rules, now),
            None => {
                self.gates.insert(engine.to_owned(), Gate::new(rules, now));
            }
        }
    }

    /// The endpoint for a start that is bound to none; `None` only without candidates.
    pub fn choose(
        &mut self,
        engine: &str,
        candidates: &[Candidate],
        ckey: Option<&str>,
        now: Time,
    ) -> Option<u32> {
        match self.gates.get_mut(engine) {
            Some(gate) => gate.balancer.choose(candidates, ckey, &mut self.draws, now),
            None => balance::least_loaded(candidates),
        }
    }

    /// Compares each engine's endpoints with each other; answers which of them get new work from now on or no more.
    pub fn compare(&mut self, now: Time) -> Vec<(String, u32, balance::BalanceChange)> {
        let mut changes = Vec::new();
        for (engine, gate) in &mut self.gates {
            let endpoints = &gate.endpoints;
            let parked = |at: u32| endpoints.get(at as usize).is_some_and(|e| e.breaker.parks(now));
            let changed = gate.balancer.tick(parked, now);
            changes.extend(changed.into_iter().map(|(at, change)| (engine.clone(), at, change)));
        }
        changes
    }

    /// What time alone brings to every breaker and limiter.
    pub fn tick(&mut self, now: Time) -> Vec<GateChange> {
        let mut changes = Vec::new();
        for (engine, gate) in &mut self.gates {
            let rules = gate.rules.breaker;
            for (at, endpoint) in (0u32..).zip(&mut gate.endpoints) {
                endpoint.limiter.tick(now);
                if endpoint.frozen_until.is_some_and(|until| until <= now) {
                    endpoint.frozen_until = None;
                }
                let change = endpoint.breaker.tick(&rules, now);
                changes.extend(change.map(|change| GateChange {
                    engine: engine.clone(),
                    endpoint: at,
                    change,
                }));
            }
        }
        changes
    }

    /// Takes in that this many executions wait for the learned limit of an endpoint alone, as they have since the last time;
    /// gives the seconds that are charged for it.
    pub(crate) fn hold_back(&mut self, engine: &str, at: u32, held: u64, now: Time) -> f64 {
        let endpoint = self.gates.get_mut(engine).and_then(|gate| gate.endpoints.get_mut(at as usize));
        endpoint.map_or(0.0, |endpoint| endpoint.limiter.hold_back(held, now))
    }

    /// An endpoint's health was asked; `None`: it cannot be.
    pub fn checked(&mut self, engine: &str, at: u32, healthy: Option<bool>, now: Time) -> Option<GateChange> {
        let gate = self.gates.get_mut(engine)?;
        let rules = gate.rules.breaker;
        let change = gate.endpoints.get_mut(at as usize)?.breaker.checked(&rules, healthy, now)?;
        Some(GateChange { engine: engine.to_owned(), endpoint: at, change })
    }

    /// Sets or lifts an operator's word on one endpoint, or on all.
    pub fn force(
        &mut self,
        engine: &str,
        endpoint: Option<u32>,
        forced: Option<&Forced>,
        now: Time,
    ) -> Vec<GateChange> {
        let Some(gate) = self.gates.get_mut(engine) else { return Vec::new() };
        let all = (0u32..).zip(&mut gate.endpoints);
        let named = all.filter(|(at, _)| endpoint.is_none_or(|wanted| wanted == *at));
        named
            .map(|(at, gate)| GateChange {
                engine: engine.to_owned(),
                endpoint: at,
                change: gate.breaker.force(forced.cloned(), now),
            })
            .collect()
    }

    /// Forgets calls that do not run any more although their end was never heard of.
    pub fn retain(&mut self, live: impl Fn(Key) -> bool) {
        for gate in self.gates.values_mut() {
            gate.balancer.retain(&live);
            for endpoint in &mut gate.endpoints {
                endpoint.breaker.retain(&live);
                endpoint.limiter.retain(&live);
            }
        }
    }

    /// Every engine's gate as it is to be stored.
    #[must_use]
    pub fn docs(&self) -> BTreeMap<String, GateDoc> {
        self.gates.iter().map(|(engine, gate)| (engine.clone(), gate.doc())).collect()
    }

    /// Takes up what was stored; endpoints are found by name, and those that are gone are forgotten.
    pub fn restore(&mut self, engine: &str, doc: GateDoc) {
        if let Some(gate) = self.gates.get_mut(engine) {
            gate.restore(doc);
        }
    }
}

mod told;
pub use told::{LimitTold, LimitWhy};

#[cfg(test)]
mod tests;
