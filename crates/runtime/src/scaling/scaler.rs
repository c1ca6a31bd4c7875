//! The scaler: asks the auto-scaler how many workers there should be, tells the pools, and keeps why and what came of it.
//!
//! Only the scheduler's node decides, for all nodes of its store. It looks each tick, and soon after work found no free
//! slot. Every change is a document with everything it was decided on; what the auto-scaler learned is stored every
//! 10 s and taken up by the next start, or by the next scheduler.

use super::observe::Observer;
use super::records::Records;
use crate::role::{Role, Round};
use crate::state::context::Context;
use crate::state::wanted::Wanted;
use crate::workers::dedicated::{starting_workers, workers_apart};
use enginehouse_core::autoscaler::{Autoscaler, AutoscalerDoc, Decision, PoolCounts, ScalingRules};
use enginehouse_core::id::NodeId;
use enginehouse_core::lab::GATHER;
use enginehouse_store::{DocKind, StoreError};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const STORE_EVERY: Duration = Duration::from_secs(10);

/// Documents of the kind [`DocKind::Scaling`].
const MEMORY: &str = "memory";
const SHADOW_MEMORY: &str = "memory-shadow";
const WANTED: &str = "wanted";

pub(crate) struct Scaler {
    cx: Arc<Context>,
    live: Autoscaler,
    shadow: Option<Autoscaler>,
    observer: Observer,
    records: Records,
    /// What was learned before was taken up.
    loaded: bool,
    stored: Instant,
}

impl Role for Scaler {
    const NAME: &'static str = "scaler";
    const TROUBLE: &'static str = "the scaler could not read or store what it needs";
    type Error = StoreError;

    fn first(&self) -> Duration {
        self.tick()
    }

    fn again(&self) -> Duration {
        self.tick()
    }

    async fn nudged(&mut self) {
        self.cx.workers.scaler_nudge.notified().await;
        // What comes together is looked at together.
        tokio::time::sleep(self.tick() / GATHER).await;
    }

    async fn round(&mut self) -> Result<Round, StoreError> {
        self.turn().await?;
        Ok(Round::then_rest(self.tick()))
    }

    async fn end(&mut self) {
        if self.loaded {
            let _ = self.store_memory().await;
        }
    }
}

impl Scaler {
    pub(crate) fn new(cx: Arc<Context>) -> Scaler {
        let live = Autoscaler::new(cx.workers.scaling.lock().rules.clone());
        let observer = Observer::new(cx.clone());
        Scaler {
            cx,
            live,
            shadow: None,
            observer,
            records: Records::default(),
            loaded: false,
            stored: Instant::now(),
        }
    }

    fn tick(&self) -> Duration {
        Duration::from_millis(self.live.rules().tick_interval)
    }

    async fn turn(&mut self) -> Result<(), StoreError> {
        if !self.cx.scheduling.scheduler.lock().may_grant() {
            self.loaded = false;
            return self.follow().await;
        }
        if !self.loaded {
            self.load().await?;
        }
        let apart = workers_apart(&self.cx);
        self.take_up_rules(apart);
        let mut seen = self.observer.observe(&self.live).await?;
        leave_out(&mut seen.pool, apart);
        let decision = add_back(self.live.step(&seen), apart);
        let beside = self.shadow.as_mut().map(|shadow| add_back(shadow.step(&seen), apart));
        self.carry_out(&decision).await?;
        {
            let mut scaling = self.cx.workers.scaling.lock();
            scaling.startup = self.live.startup_time();
            scaling.decision = Some(decision.clone());
            scaling.shadow_decision.clone_from(&beside);
        }
        let starting = starting_workers(&self.cx, self.live.startup_time());
        self.cx.scheduling.scheduler.lock().queue.expect_workers(starting);
        let news = self.cx.workers.pool_news.lock().totals;
        self.records.follow(&self.cx, &decision, beside.as_ref(), news, seen.now).await?;
        if self.stored.elapsed() >= STORE_EVERY {
            self.store_memory().await?;
        }
        Ok(())
    }

    /// Brings both auto-scalers to the rules in force; `apart`: workers of dedicated pools that they plan without.
    fn take_up_rules(&mut self, apart: u32) {
        self.cx.expire_scaling_change();
        let (mut rules, shadow) = {
            let scaling = self.cx.workers.scaling.lock();
            (scaling.rules.clone(), scaling.shadow)
        };
        rules.min_workers = rules.min_workers.saturating_sub(apart);
        rules.max_workers = rules.max_workers.saturating_sub(apart);
        match (shadow, &mut self.shadow) {
            (None, beside) => *beside = None,
            (Some(policy), beside) => {
                let rules = ScalingRules { policy, ..rules.clone() };
                match beside {
                    Some(beside) if *beside.rules() == rules => {}
                    Some(beside) => beside.set_rules(rules),
                    None => *beside = Some(Autoscaler::new(rules)),
                }
            }
        }
        if *self.live.rules() != rules {
            self.live.set_rules(rules);
        }
    }

    /// Takes up what an earlier process, or another node, learned.
    async fn load(&mut self) -> Result<(), StoreError> {
        self.cx.load_scaling_change().await?;
        self.take_up_rules(0);
        if self.cx.workers.scaling.lock().fresh {
            self.live.begins();
        }
        for doc in self.cx.store.docs(DocKind::Scaling).await? {
            let target = match doc.id.as_str() {
                MEMORY => Some(&mut self.live),
                SHADOW_MEMORY => self.shadow.as_mut(),
                _ => None,
            };
            let Some(target) = target else { continue };
            match serde_json::from_value::<AutoscalerDoc>(doc.body) {
                Ok(memory) => target.restore(memory),
                Err(error) => {
                    tracing::warn!(%error, "what the auto-scaler learned cannot be read; it starts over")
                }
            }
        }
        self.records = Records::load(&self.cx).await?;
        self.loaded = true;
        Ok(())
    }

    async fn store_memory(&mut self) -> Result<(), StoreError> {
        self.stored = Instant::now();
        let memory = json!(self.live.snapshot());
        self.cx.keep(DocKind::Scaling, MEMORY, |_| memory.clone()).await?;
        if let Some(shadow) = &self.shadow {
            let memory = json!(shadow.snapshot());
            self.cx.keep(DocKind::Scaling, SHADOW_MEMORY, |_| memory.clone()).await?;
        }
        Ok(())
    }

    /// Tells each node's pool how many workers it is to have.
    async fn carry_out(&mut self, decision: &Decision) -> Result<(), StoreError> {
        let most = self.cx.workers.scaling.lock().rules.max_workers;
        let nodes = self.nodes().await?;
        let own = self.cx.settings.node;
        let part = |total: u32| share(total, &nodes, own);
        self.cx.workers.want(Wanted {
            count: part(decision.target),
            most: part(most),
            launch_timeout: self.live.launch_timeout(),
            launch_nothing: !decision.may_launch,
        });
        if nodes.len() > 1 {
            let all: BTreeMap<String, Value> = nodes
                .iter()
                .map(|node| {
                    let (count, most) = (share(decision.target, &nodes, *node), share(most, &nodes, *node));
                    let wanted = json!({"count": count, "most": most, "launch": decision.may_launch});
                    (node.0.to_string(), wanted)
                })
                .collect();
            let body = json!(all);
            if self.records.wanted.as_ref() != Some(&body) {
                self.cx.keep(DocKind::Scaling, WANTED, |_| body.clone()).await?;
                self.records.wanted = Some(body);
            }
        }
        Ok(())
    }

    /// The nodes that have workers, and this one.
    async fn nodes(&self) -> Result<BTreeSet<NodeId>, StoreError> {
        let mut nodes = BTreeSet::from([self.cx.settings.node]);
        if self.cx.store.features().shared {
            nodes.extend(self.cx.store.sessions().await?.into_iter().map(|session| session.node));
        }
        Ok(nodes)
    }

    /// On a node that does not schedule: takes up what the scheduler wants of it.
    async fn follow(&mut self) -> Result<(), StoreError> {
        if !self.cx.store.features().shared {
            return Ok(());
        }
        let docs = self.cx.store.docs(DocKind::Scaling).await?;
        let own = self.cx.settings.node.0.to_string();
        let wanted = docs.iter().find(|doc| doc.id == WANTED).and_then(|doc| doc.body.get(&own));
        if let Some(wanted) = wanted {
            let number = |name: &str| wanted[name].as_u64().and_then(|n| u32::try_from(n).ok());
            if let (Some(count), Some(most)) = (number("count"), number("most")) {
                let launch_nothing = wanted["launch"] == false;
                self.cx.workers.want(Wanted {
                    count,
                    most,
                    launch_timeout: self.live.launch_timeout(),
                    launch_nothing,
                });
            }
        }
        Ok(())
    }
}

/// Takes workers that stand apart for dedicated pools out of what the auto-scaler sees, those that are ready first.
fn leave_out(pool: &mut PoolCounts, apart: u32) {
    let ready = pool.ready.min(apart);
    pool.ready -= ready;
    let starting = pool.starting.len().saturating_sub((apart - ready) as usize);
    pool.starting.truncate(starting);
}

/// Adds them to its answer, which others see as a whole.
fn add_back(decision: Decision, apart: u32) -> Decision {
    if apart == 0 {
        return decision;
    }
    let mut whole = decision;
    whole.target = whole.target.saturating_add(apart);
    whole.current = whole.current.saturating_add(apart);
    whole.figures.ready = whole.figures.ready.saturating_add(apart);
    whole.reason = format!("{}, and {apart} more for dedicated pools", whole.reason);
    whole
}

/// A node's part of a total: even, what is left over to the first nodes.
fn share(total: u32, nodes: &BTreeSet<NodeId>, node: NodeId) -> u32 {
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
    let place = nodes.iter().position(|n| *n == node).and_then(|at| u32::try_from(at).ok()).unwrap_or(0);
    total / count + u32::from(place < total % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_all_nodes_are_the_whole() {
        let nodes: BTreeSet<NodeId> = [0, 3, 7].map(NodeId).into();
        for total in 0..20 {
            let parts: Vec<u32> = nodes.iter().map(|node| share(total, &nodes, *node)).collect();
            assert_eq!(parts.iter().sum::<u32>(), total, "{parts:?}");
            assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{parts:?}");
        }
    }
}
