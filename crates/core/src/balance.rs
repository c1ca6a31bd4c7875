//! Which of an engine's endpoints takes the next start, and which of them is left alone for a while.
//!
//! The least expected completion: of two endpoints drawn by weight, the one on which the call should be done first, which
//! is the calls it has and this one, each taking what calls there take, over its weight and the share of its calls that
//! are answered at all. Two draws are nearly as good as looking at all, and do not send everybody to the one that looks
//! best for a moment (Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12(10), 2001).
//! Calls held count in full, although an endpoint may run them side by side: that keeps equal endpoints equally full,
//! however the measured times scatter.
//!
//! Sticky keys go by weighted rendezvous hashing (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998; weights after
//! Schindelhauer and Schomaker, SPAA 2005), within a bound on the load of each endpoint (Mirrokni, Thorup and
//! Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018). Round robin is stride scheduling (Waldspurger
//! and Weihl, MIT LCS TM-528, 1995).
//!
//! Whether an endpoint takes anything at all (its breaker, its limits) is asked of its [`Gate`](crate::gate::Gate) before;
//! only candidates that do come here. Invariants: a candidate is chosen whenever there is one; at most half of an
//! engine's endpoints are left alone, those that their breakers park included; the same draws give the same choices.

use crate::breaker::Sign;
use crate::id::Key;
use crate::time::{Millis, Time};
use record::{Record, Standing};
use serde::{Deserialize, Serialize};

mod outliers;
mod record;
pub use outliers::{BalanceChange, Cause};

/// How an engine's starts are spread over its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balancing {
    /// Where it should be done first.
    #[default]
    LeastExpected,
    /// In turn, exactly by weight, whatever the endpoints' speed and load.
    RoundRobin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalanceRules {
    pub balancing: Balancing,
    /// Work of one concurrency key goes to one endpoint as far as that has room.
    pub sticky: bool,
    /// Whether an endpoint that is far worse than its peers is left alone for a while.
    pub eject: bool,
}

impl Default for BalanceRules {
    fn default() -> Self {
        BalanceRules { balancing: Balancing::LeastExpected, sticky: false, eject: true }
    }
}

/// An endpoint that may take the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub at: u32,
    /// Calls that hold its room.
    pub used: u32,
    pub weight: f64,
}

impl Candidate {
    fn share(&self) -> f64 {
        if self.weight.is_finite() { self.weight.max(f64::MIN_POSITIVE) } else { 1.0 }
    }
}

/// Two endpoints whose costs differ by less are alike, and the draw decides. So what is known of one without calls, which
/// fades, is learned again.
const ALIKE: f64 = 1.1;
/// How full a sticky endpoint may be beyond its share of all calls, and how many calls it may have in any case.
const STICKY_EXCESS: f64 = 1.25;
const STICKY_ALWAYS: u32 = 4;

/// Random numbers from a seed: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draws(u64);

impl Draws {
    #[must_use]
    pub fn new(seed: u64) -> Draws {
        Draws(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Above 0 and at most 1.
    fn part(&mut self) -> f64 {
        unit(self.next())
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn unit(bits: u64) -> f64 {
    ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// FNV-1a: stable over processes and versions, which is all that is asked of it; [`mix`] spreads it.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// One engine's endpoints: what was learned of each, and whose turn it is.
#[derive(Debug, Clone)]
pub struct Balancer {
    rules: BalanceRules,
    /// Hashes of the endpoints' names.
    hashes: Vec<u64>,
    records: Vec<Record>,
    /// Round robin: how far each endpoint has come, in turns over its weight, and where the last one served was.
    passes: Vec<f64>,
    served: f64,
}

/// What is stored of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BalanceDoc(Record);

impl Balancer {
    /// `names`: the endpoints' names in order; sticky keys go by them.
    #[must_use]
    pub fn new(rules: BalanceRules, names: &[String]) -> Balancer {
        Balancer {
            rules,
            hashes: names.iter().map(|name| hash(name)).collect(),
            records: vec![Record::default(); names.len()],
            passes: vec![0.0; names.len()],
            served: 0.0,
        }
    }

    /// What was learned, in the order of the endpoints.
    pub fn docs(&self) -> impl Iterator<Item = BalanceDoc> {
        self.records.iter().cloned().map(BalanceDoc)
    }

    /// Takes up what was stored of one endpoint.
    pub fn restore(&mut self, at: u32, doc: BalanceDoc) {
        if let Some(record) = self.records.get_mut(at as usize) {
            *record = doc.0.sane();
        }
    }

    pub fn started(&mut self, at: u32, key: Key) {
        if let Some(record) = self.records.get_mut(at as usize) {
            record.started(key);
        }
    }

    pub fn unstarted(&mut self, at: u32, key: Key) {
        if let Some(record) = self.records.get_mut(at as usize) {
            record.try_again(key);
        }
    }

    /// A call ended. `took`: its time, where it is known.
    pub fn ended(&mut self, at: u32, key: Key, sign: Sign, took: Option<Millis>, now: Time) {
        let most = self.slowest_fair(at);
        if let Some(record) = self.records.get_mut(at as usize) {
            record.ended(key, sign, took, most, now);
        }
    }

    /// Forgets trial calls that do not run any more although their end was never heard of.
    pub fn retain(&mut self, live: impl Fn(Key) -> bool) {
        self.records.iter_mut().for_each(|record| record.retain(&live));
    }

    /// How long a call there takes, in milliseconds, as far as that is known.
    #[must_use]
    pub fn run_ms(&self, at: u32) -> Option<f64> {
        self.records.get(at as usize)?.run_ms()
    }

    /// The share of its recent calls that found it unwell, 0 to 1.
    #[must_use]
    pub fn unwell_share(&self, at: u32) -> f64 {
        self.records.get(at as usize).map_or(0.0, Record::unwell_share)
    }

    /// The endpoint for the next start; `None` only without candidates. `ckey`: the work's concurrency key.
    pub fn choose(
        &mut self,
        candidates: &[Candidate],
        ckey: Option<&str>,
        draws: &mut Draws,
        now: Time,
    ) -> Option<u32> {
        if let Some(ckey) = ckey.filter(|_| self.rules.sticky) {
            return self.by_key(candidates, ckey);
        }
        if let Some(trial) = candidates.iter().find(|c| self.wants_trial(c.at)) {
            return Some(trial.at);
        }
        match self.rules.balancing {
            Balancing::RoundRobin => self.in_turn(candidates),
            Balancing::LeastExpected => self.least_expected(candidates, draws, now),
        }
    }

    fn least_expected(&self, candidates: &[Candidate], draws: &mut Draws, now: Time) -> Option<u32> {
        let (first, second) = two(candidates, draws)?;
        let cost = |candidate| self.cost(candidate, candidates, now);
        let alike = cost(first) <= ALIKE * cost(second);
        Some(if alike { first.at } else { second.at })
    }

    /// When a call that starts there now should be done, by the weights of the endpoints.
    fn cost(&self, candidate: &Candidate, all: &[Candidate], now: Time) -> f64 {
        let calls = f64::from(candidate.used) + 1.0;
        // An endpoint of which nothing is known, or not any more, is taken to be like its peers.
        let peers = all.iter().filter(|peer| peer.at != candidate.at);
        let known = peers.filter_map(|peer| self.records.get(peer.at as usize)?.log_ms());
        let usual = outliers::median(known.collect()).unwrap_or(0.0);
        let each =
            self.records.get(candidate.at as usize).map_or(1.0, |r| r.cost(candidate.used, usual, now));
        calls * each / candidate.share()
    }

    fn by_key(&self, candidates: &[Candidate], ckey: &str) -> Option<u32> {
        let key = hash(ckey);
        let calls = 1.0 + candidates.iter().map(|c| f64::from(c.used)).sum::<f64>();
        let weights: f64 = candidates.iter().map(Candidate::share).sum();
        let has_room = |c: &Candidate| {
            c.used < STICKY_ALWAYS || f64::from(c.used) < (STICKY_EXCESS * calls * c.share() / weights).ceil()
        };
        let distance = |c: &Candidate| {
            let name = self.hashes.get(c.at as usize).copied().unwrap_or(u64::from(c.at));
            -unit(mix(key ^ mix(name))).ln() / c.share()
        };
        let near = |a: &&Candidate, b: &&Candidate| {
            distance(a).total_cmp(&distance(b)).then_with(|| a.at.cmp(&b.at))
        };
        candidates.iter().filter(|c| has_room(c)).min_by(near).map(|c| c.at)
    }

    fn in_turn(&mut self, candidates: &[Candidate]) -> Option<u32> {
        // Who was away has saved nothing up: it goes on where those being served are.
        let from = |c: &Candidate| self.passes.get(c.at as usize).map_or(self.served, |p| p.max(self.served));
        let next = candidates.iter().min_by(|a, b| from(a).total_cmp(&from(b)).then_with(|| a.at.cmp(&b.at)));
        let next = *next?;
        self.served = from(&next);
        if let Some(pass) = self.passes.get_mut(next.at as usize) {
            *pass = self.served + 1.0 / next.share();
        }
        Some(next.at)
    }
}

/// Two different candidates, drawn by weight; the same one twice when there is no other.
fn two<'a>(candidates: &'a [Candidate], draws: &mut Draws) -> Option<(&'a Candidate, &'a Candidate)> {
    let first = draw(candidates, None, draws)?;
    let second = draw(candidates, Some(first.at), draws).unwrap_or(first);
    Some((first, second))
}

fn draw<'a>(candidates: &'a [Candidate], but: Option<u32>, draws: &mut Draws) -> Option<&'a Candidate> {
    let others = || candidates.iter().filter(|c| Some(c.at) != but);
    let total: f64 = others().map(Candidate::share).sum();
    let mut left = draws.part() * total;
    let drawn = others().find(|c| {
        left -= c.share();
        left <= 0.0
    });
    // Rounding may leave a rest behind the last one.
    drawn.or_else(|| others().next_back())
}

/// Chooses without anything learned: the most room by weight.
#[must_use]
pub fn least_loaded(candidates: &[Candidate]) -> Option<u32> {
    let load = |c: &Candidate| (f64::from(c.used) + 1.0) / c.share();
    candidates.iter().min_by(|a, b| load(a).total_cmp(&load(b)).then_with(|| a.at.cmp(&b.at))).map(|c| c.at)
}

#[cfg(test)]
mod tests;
