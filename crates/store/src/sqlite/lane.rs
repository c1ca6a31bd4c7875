//! Numbers for the names of lanes, so that a due row and its index entry carry one integer.

use crate::StoreError;
use enginehouse_core::execution::Lane;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{BTreeMap, HashMap};

/// Names remembered in memory.
const REMEMBERED_MAX: usize = 16_384;
/// Names stored before unused ones are looked for.
const STORED_MIN: u64 = 10_000;
/// Stored names looked at with each new one.
const LOOKED_AT: usize = 2;

pub(super) const FIND: &str = "SELECT id FROM lane INDEXED BY lane_name
    WHERE engine = ? AND ifnull(user, x'') = ifnull(?, x'') AND ifnull(ckey, x'') = ifnull(?, x'') AND retry = ?";

/// The writer's memory of lane numbers. It follows the transaction: after a rollback it is loaded again.
#[derive(Default)]
pub(super) struct Lanes {
    numbers: HashMap<Lane, i64>,
    names: BTreeMap<i64, Lane>,
    stored: u64,
    /// Up to which number unused names were looked for in this round.
    swept: i64,
}

impl Lanes {
    pub(super) fn load(db: &Connection) -> Result<Lanes, StoreError> {
        let stored: i64 = db.query_row("SELECT count(*) FROM lane", [], |row| row.get(0))?;
        Ok(Lanes { stored: super::row::unsigned(stored), ..Lanes::default() })
    }

    /// The lane's number, given to it now if it has none.
    pub(super) fn number(&mut self, db: &Connection, lane: Lane) -> Result<i64, StoreError> {
        if let Some(number) = self.numbers.get(&lane) {
            return Ok(*number);
        }
        let number = match find(db, &lane)? {
            Some(number) => number,
            None => {
                self.sweep(db)?;
                self.stored += 1;
                db.prepare_cached(
                    "INSERT INTO lane (engine, user, ckey, retry) VALUES (?, ?, ?, ?) RETURNING id",
                )?
                .query_row(params![lane.engine, lane.user, lane.ckey, lane.retry], |row| row.get(0))?
            }
        };
        if self.names.len() >= REMEMBERED_MAX {
            self.names.clear();
            self.numbers.clear();
        }
        self.names.insert(number, lane.clone());
        self.numbers.insert(lane, number);
        Ok(number)
    }

    /// Removes a few names no due row uses, so that names used once (a concurrency key per session) do not pile up.
    fn sweep(&mut self, db: &Connection) -> Result<(), StoreError> {
        for _ in 0..LOOKED_AT {
            if self.stored < STORED_MIN {
                break;
            }
            let mut next = db.prepare_cached("SELECT id FROM lane WHERE id > ? ORDER BY id LIMIT 1")?;
            let Some(number) = next.query_row([self.swept], |row| row.get(0)).optional()? else {
                self.swept = 0;
                continue;
            };
            self.swept = number;
            let unused = "DELETE FROM lane WHERE id = ?1
                AND NOT EXISTS (SELECT 1 FROM execution INDEXED BY ready WHERE lane = ?1)";
            if db.prepare_cached(unused)?.execute([number])? == 1 {
                self.stored -= 1;
                if let Some(lane) = self.names.remove(&number) {
                    self.numbers.remove(&lane);
                }
            }
        }
        Ok(())
    }
}

pub(super) fn find(db: &Connection, lane: &Lane) -> Result<Option<i64>, StoreError> {
    let mut statement = db.prepare_cached(FIND)?;
    let found = statement.query_row(params![lane.engine, lane.user, lane.ckey, lane.retry], |row| row.get(0));
    Ok(found.optional()?)
}
