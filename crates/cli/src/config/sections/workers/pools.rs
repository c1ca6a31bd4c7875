//! `[workers.pools.NAME]`: workers that serve only some engine types.

use crate::config::checker::{Checker, is_name};
use crate::config::types::{Texts, Whole, section};
use enginehouse_core::pools::PoolRules;
use std::collections::BTreeMap;

section! {
    /// Workers that serve only some engine types.
    pub struct WorkerPool {
        /// What they serve; an engine type belongs to one pool at most. Its work goes to them first, then to shared workers.
        engine_types: Texts = Texts::default();
        /// Workers that are there whatever the demand; all pools together less than `scaling.max_workers`.
        min_workers: Whole<0, 1024> = Whole(0);
        /// The most workers of the pool. Absent: as many as `scaling.max_workers` leaves.
        max_workers: Option<Whole<1, 1024>> = None;
    }
}

/// Names become part of their workers' names.
const NAME_BYTES_MAX: usize = 32;
const POOLS_MAX: usize = 64;

/// The pools by name; `most`: the workers of all pools together. What makes no sense is a fault of its key.
pub(super) fn resolve(
    pools: &BTreeMap<String, WorkerPool>,
    most: u32,
    checker: &mut Checker<'_>,
) -> Vec<PoolRules> {
    checker.require(pools.len() <= POOLS_MAX, "workers/pools", || format!("there may be {POOLS_MAX} pools"));
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for (name, pool) in pools {
        found.push(one(name, pool, most, &mut owners, checker));
    }
    let minimums: u64 = found.iter().map(|pool| u64::from(pool.min)).sum();
    checker.require(found.is_empty() || minimums < u64::from(most), "workers/pools", || {
        format!(
            "the pools' min_workers are {minimums} together; with scaling.max_workers = {most} no worker would be left that \
             serves the other engine types"
        )
    });
    found
}

fn one<'a>(
    name: &'a str,
    pool: &WorkerPool,
    most: u32,
    owners: &mut BTreeMap<String, &'a str>,
    checker: &mut Checker<'_>,
) -> PoolRules {
    let WorkerPool { engine_types, min_workers, max_workers } = pool;
    let path = format!("workers/pools/{name}");
    checker.require(is_name(name, NAME_BYTES_MAX), &path, || {
        format!("a pool's name is 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ -")
    });
    let at = format!("{path}/engine_types");
    checker.require(!engine_types.0.is_empty(), &at, || {
        "is missing; a pool serves one engine type at least, such as [\"langflow\"]".to_owned()
    });
    let mut found = Vec::new();
    for written in &engine_types.0 {
        let engine_type = if written == "langgraph" { "langsmith" } else { written.as_str() };
        match owners.insert(engine_type.to_owned(), name) {
            Some(other) if other == name => checker.fault(&at, format!("{engine_type} is there twice")),
            Some(other) => checker.fault(&at, format!("{engine_type} belongs to the pool {other} already")),
            None => found.push(engine_type.to_owned()),
        }
    }
    let min = min_workers.get32();
    let max = max_workers.map_or(most, |max| max.get32());
    checker.require(min <= max, &format!("{path}/min_workers"), || {
        format!("must not be more than the pool's max_workers, which is {max}")
    });
    PoolRules { name: name.to_owned(), engine_types: found, min, max }
}

#[cfg(test)]
mod tests {
    use crate::config::{Format, Sources};

    fn faults(text: &str) -> String {
        let sources = Sources::new().text(text, Format::Toml, "test").expect("it parses");
        match sources.load() {
            Ok(config) => {
                let pools = config.settings.pools.iter();
                pools.map(|p| format!("{}={:?} {}-{} ", p.name, p.engine_types, p.min, p.max)).collect()
            }
            Err(faults) => faults.to_string(),
        }
    }

    #[test]
    fn pools_are_read_and_nonsense_is_refused_with_its_reason() {
        let rows = [
            ("", ""),
            (
                "[workers.pools.flows]\nengine_types = ['langflow', 'langgraph']\nmin_workers = 2",
                "flows=[\"langflow\", \"langsmith\"] 2-20 ",
            ),
            ("[workers.pools.flows]\nengineTypes = ['n8n']\nmaxWorkers = 4", "flows=[\"n8n\"] 0-4 "),
            ("[workers.pools.flows]\nmin_workers = 1", "is missing; a pool serves one engine type at least"),
            ("[workers.pools.flows]\nengine_types = ['n8n', 'n8n']", "n8n is there twice"),
            (
                "[workers.pools.a]\nengine_types = ['n8n']\n[workers.pools.b]\nengine_types = ['n8n']",
                "n8n belongs to the pool a already",
            ),
            (
                "[workers.pools.a]\nengine_types = ['n8n']\nmin_workers = 3\nmax_workers = 2",
                "must not be more than the pool's max_workers, which is 2",
            ),
            ("[workers.pools.a]\nengine_types = ['n8n']\nmin_workers = 20", "no worker would be left"),
            ("[workers.pools.'a b']\nengine_types = ['n8n']", "a pool's name is 1 to 32"),
        ];
        for (text, wanted) in rows {
            let found = faults(text);
            let fits = if wanted.is_empty() { found.is_empty() } else { found.contains(wanted) };
            assert!(fits, "{text}: {found}");
        }
    }
}
