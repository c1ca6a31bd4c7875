//! `[queue]`: the queue and its order.

use crate::config::checker::Checker;
use crate::config::types::{MaybeNone, Span, Weight, Whole, section};
use enginehouse_core::rank::HeadStarts;
use enginehouse_core::time::MINUTE;
use enginehouse_runtime::{QueueSettings, Settings};
use std::collections::BTreeMap;

section! {
    /// The queue and its order.
    pub struct Queue {
        /// Pending executions beyond which submits answer `queue_full`.
        depth_max: Whole<1, 1000000000> = Whole(1_000_000);
        /// Due executions of one engine beyond which submits for it answer `queue_full`. Absent: only `depth_max` counts.
        engine_depth_max: Option<Whole<1, 1000000000>> = None;
        /// Due executions of one `userId` (or of none) beyond which submits of it answer `queue_full`. Absent: only `depth_max` counts.
        user_depth_max: Option<Whole<1, 1000000000>> = None;
        /// Shares of the slots' time by `userId`, such as `{ gold = 2 }`; everybody else has 1.
        user_weights: BTreeMap<String, Weight> = BTreeMap::new();
        /// How many executions of one `concurrencyKey` run at once.
        concurrency_key_limit: Whole<1, 10000> = Whole(1);
        /// How far ahead of others each priority stands; they may not fall from `low` to `critical`.
        head_start: HeadStart = HeadStart::default();
    }

    /// How far ahead of others each priority stands.
    pub struct HeadStart {
        /// Head start of LOW.
        low: MaybeNone = Span(0);
        /// Head start of NORMAL.
        normal: MaybeNone = Span(5 * MINUTE);
        /// Head start of HIGH.
        high: MaybeNone = Span(15 * MINUTE);
        /// Head start of CRITICAL.
        critical: MaybeNone = Span(60 * MINUTE);
    }
}

pub(in crate::config) fn resolve(raw: &Queue, settings: &mut Settings, checker: &mut Checker<'_>) {
    let Queue {
        depth_max,
        engine_depth_max,
        user_depth_max,
        user_weights,
        concurrency_key_limit,
        head_start,
    } = raw;
    settings.queue = QueueSettings {
        depth_max: depth_max.0,
        engine_depth_max: engine_depth_max.map(|most| most.0),
        user_depth_max: user_depth_max.map(|most| most.0),
        user_weights: user_weights.iter().map(|(user, weight)| (user.clone(), weight.0)).collect(),
    };
    settings.concurrency_key_limit = concurrency_key_limit.get32();
    settings.head_starts = head_starts(head_start, checker);
}

fn head_starts(raw: &HeadStart, checker: &mut Checker<'_>) -> HeadStarts {
    let HeadStart { low, normal, high, critical } = raw;
    let order = [low.0, normal.0, high.0, critical.0];
    checker.require(order.is_sorted(), "queue/head_start", || {
        "may not fall from low to normal to high to critical: more urgent work would start later".to_owned()
    });
    let [low, normal, high, critical] = order;
    HeadStarts { low, normal, high, critical }
}
