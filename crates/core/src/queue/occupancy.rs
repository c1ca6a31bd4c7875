//! Slots in use = live leases: one map, with counts derived from it and audited against it.

use crate::id::{Key, SessionId};
use crate::planted::{self, Bug};
use crate::time::{Millis, Time};
use std::collections::BTreeMap;

/// One running attempt's hold on a worker slot and on room in its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub engine: String,
    pub endpoint: u32,
    pub ckey: Option<String>,
    pub user: Option<String>,
    pub worker: SessionId,
    pub since: Time,
    /// What its user was charged so far, in milliseconds.
    pub charged: Millis,
    /// It was taken out of the retry budget.
    pub retry: bool,
}

/// Live leases, and the engine room that abandoned calls still hold.
#[derive(Debug, Clone, Default)]
pub struct Occupancy {
    leases: BTreeMap<Key, Lease>,
    ghosts: Vec<Ghost>,
    workers: BTreeMap<SessionId, u32>,
    endpoints: BTreeMap<(String, u32), u32>,
    ckeys: BTreeMap<String, u32>,
}

#[derive(Debug, Clone)]
struct Ghost {
    engine: String,
    endpoint: u32,
    until: Time,
}

impl Occupancy {
    #[must_use]
    pub fn lease(&self, key: Key) -> Option<&Lease> {
        self.leases.get(&key)
    }

    pub fn leases(&self) -> impl Iterator<Item = (Key, &Lease)> {
        self.leases.iter().map(|(k, l)| (*k, l))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Slots in use of one worker.
    #[must_use]
    pub fn of_worker(&self, worker: SessionId) -> u32 {
        self.workers.get(&worker).copied().unwrap_or(0)
    }

    /// Leases and ghosts of one endpoint.
    #[must_use]
    pub fn of_endpoint(&self, engine: &str, endpoint: u32) -> u32 {
        self.endpoints.get(&(engine.to_owned(), endpoint)).copied().unwrap_or(0)
    }

    #[must_use]
    pub fn of_engine(&self, engine: &str) -> u32 {
        self.endpoints.range((engine.to_owned(), 0)..=(engine.to_owned(), u32::MAX)).map(|(_, n)| n).sum()
    }

    #[must_use]
    pub fn of_ckey(&self, ckey: &str) -> u32 {
        self.ckeys.get(ckey).copied().unwrap_or(0)
    }

    pub(super) fn take(&mut self, key: Key, lease: Lease) {
        self.free(key);
        *self.workers.entry(lease.worker).or_default() += 1;
        *self.endpoints.entry((lease.engine.clone(), lease.endpoint)).or_default() += 1;
        if let Some(ckey) = &lease.ckey {
            *self.ckeys.entry(ckey.clone()).or_default() += 1;
        }
        self.leases.insert(key, lease);
    }

    pub(super) fn free(&mut self, key: Key) -> Option<Lease> {
        let lease = self.leases.remove(&key)?;
        less(&mut self.workers, &lease.worker);
        if !planted::has(Bug::SlotLeaked) {
            less(&mut self.endpoints, &(lease.engine.clone(), lease.endpoint));
        }
        if let Some(ckey) = &lease.ckey {
            less(&mut self.ckeys, ckey);
        }
        Some(lease)
    }

    /// What runs longer than it was charged for: the difference is charged now, and given by user.
    pub(super) fn overdue(&mut self, now: Time) -> Vec<(Option<String>, i64)> {
        let mut charges = Vec::new();
        for lease in self.leases.values_mut() {
            let took = now.since(lease.since);
            if took > lease.charged {
                let more = i64::try_from(took - lease.charged).unwrap_or(i64::MAX);
                lease.charged = took;
                charges.push((lease.user.clone(), more));
            }
        }
        charges
    }

    /// Calls of one endpoint that were abandoned and still hold its room: how many, and when the last of them lets go.
    #[must_use]
    pub fn abandoned(&self, engine: &str, endpoint: u32) -> Option<(usize, Time)> {
        let there = self.ghosts.iter().filter(|ghost| ghost.engine == engine && ghost.endpoint == endpoint);
        let untils: Vec<Time> = there.map(|ghost| ghost.until).collect();
        Some((untils.len(), untils.into_iter().max()?))
    }

    pub(super) fn haunt(&mut self, engine: String, endpoint: u32, until: Time) {
        *self.endpoints.entry((engine.clone(), endpoint)).or_default() += 1;
        self.ghosts.push(Ghost { engine, endpoint, until });
    }

    pub(super) fn expire_ghosts(&mut self, now: Time) {
        let endpoints = &mut self.endpoints;
        self.ghosts.retain(|ghost| {
            let stays = ghost.until > now;
            if !stays {
                less(endpoints, &(ghost.engine.clone(), ghost.endpoint));
            }
            stays
        });
    }

    /// Recomputes every count from the leases; an empty answer means they agree.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        let mut truth = Occupancy::default();
        for (key, lease) in &self.leases {
            truth.take(*key, lease.clone());
        }
        for ghost in &self.ghosts {
            truth.haunt(ghost.engine.clone(), ghost.endpoint, ghost.until);
        }
        let mut findings = Vec::new();
        let same = [
            ("workers", truth.workers == self.workers),
            ("endpoints", truth.endpoints == self.endpoints),
            ("concurrency keys", truth.ckeys == self.ckeys),
        ];
        for (what, _) in same.into_iter().filter(|(_, same)| !same) {
            findings.push(format!("the counts of {what} differ from the leases"));
        }
        findings
    }
}

fn less<K: Ord + Clone>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}
