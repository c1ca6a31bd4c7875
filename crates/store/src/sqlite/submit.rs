//! Submits: a group is stored as a whole or not at all, and a repeated request finds the row of its first time.

use super::feed::{ChangeText, Trace};
use super::lane::Lanes;
use super::read;
use super::row::{self, Binder, INSERT, to_json};
use super::writer::Writer;
use crate::{New, Ref, StoreError, SubmitOutcome, WriteOutcome};
use enginehouse_core::event::Event;
use enginehouse_core::execution::{Execution, Fixed, State, Status};
use enginehouse_core::lifecycle::{Part, Transition};
use rusqlite::params;

/// What became of one execution of a group.
enum Item {
    Done(SubmitOutcome),
    Conflict(Box<Execution>),
}

impl Writer {
    pub(super) fn submit(
        &mut self,
        group: Vec<New>,
        epoch: Option<u64>,
        trace: &mut Trace,
    ) -> Result<WriteOutcome, StoreError> {
        // One alone has nothing to take back: it conflicts before anything is written.
        let alone = group.len() < 2;
        let (mark, totals) = (trace.mark(), self.memory.standing.totals);
        if !alone {
            self.db.prepare_cached("SAVEPOINT submit")?.raw_execute()?;
        }
        let mut outcomes = Vec::with_capacity(group.len());
        for (index, new) in group.into_iter().enumerate() {
            match self.submit_one(&new, epoch, trace)? {
                Item::Done(outcome) => outcomes.push(outcome),
                Item::Conflict(existing) => {
                    if !alone {
                        self.db.prepare_cached("ROLLBACK TO submit")?.raw_execute()?;
                        self.db.prepare_cached("RELEASE submit")?.raw_execute()?;
                        trace.go_back(mark);
                        // Names given inside the group are no longer stored.
                        self.memory.lanes = Lanes::load(&self.db)?;
                        self.memory.engine = None;
                        self.memory.standing.totals = totals;
                    }
                    return Ok(WriteOutcome::Conflict { index, existing });
                }
            }
        }
        if !alone {
            self.db.prepare_cached("RELEASE submit")?.raw_execute()?;
        }
        Ok(WriteOutcome::Submitted(outcomes))
    }

    fn submit_one(&mut self, new: &New, epoch: Option<u64>, trace: &mut Trace) -> Result<Item, StoreError> {
        let (fixed, current) = (&new.row.fixed, self.memory.is_current(epoch) && trace.refused.is_empty());
        let grant = new.grant.as_ref().filter(|grant| current && grant.rev == new.row.state.rev);
        let state = grant.map_or(&new.row.state, |grant| &grant.next);
        let lane = if state.due && state.status == Status::Pending {
            let lane = Execution { fixed: fixed.clone(), state: state.clone(), history: Vec::new() }.lane();
            Some(self.memory.lanes.number(&self.db, lane)?)
        } else {
            None
        };
        let events = events(&new.row.history, grant)?;
        if !self.insert(fixed, state, lane, &events)? {
            return self.existing(fixed);
        }
        self.store_part(fixed.key, Part::Input, &new.input)?;
        self.store_tags(fixed)?;
        self.store_engine(fixed)?;
        self.memory.standing.totals.submitted();
        trace_submit(trace, new, grant, &events)?;
        if let Some(grant) = grant {
            self.memory.standing.totals.moved(grant);
            self.store_parts(grant)?;
        }
        Ok(Item::Done(SubmitOutcome::Stored { granted: grant.is_some() }))
    }

    /// Stores the row; false when its key, id or idempotency key is taken.
    fn insert(
        &self,
        fixed: &Fixed,
        state: &State,
        lane: Option<i64>,
        events: &[String],
    ) -> Result<bool, StoreError> {
        let mut statement = self.db.prepare_cached(&INSERT)?;
        let mut binder = Binder::new(&mut statement);
        row::put_fixed(&mut binder, fixed)?;
        row::put_state(&mut binder, state, lane)?;
        binder.put(events.join(row::SEPARATOR))?;
        Ok(statement.raw_execute()? == 1)
    }

    /// The row in the way: the one this submit repeats, or one that took its names for another request.
    fn existing(&self, fixed: &Fixed) -> Result<Item, StoreError> {
        let by_id = fixed.ext_id.clone().map(Ref::Id);
        let by_idempotency = fixed.idem_key.clone().map(Ref::Idempotency);
        let mut same: Option<Execution> = None;
        for by in [by_id, by_idempotency, Some(Ref::Key(fixed.key))].into_iter().flatten() {
            let Some(found) = read::find(&self.db, &by)? else { continue };
            let another = same.as_ref().is_some_and(|first| first.key() != found.key());
            let key_taken = found.key() == fixed.key && found.fixed.ext_id != fixed.ext_id;
            if another || key_taken || found.fixed.request_hash != fixed.request_hash {
                return Ok(Item::Conflict(Box::new(found)));
            }
            same = Some(found);
        }
        let missing =
            || StoreError::Corrupt(format!("execution {} is neither stored nor in the way", fixed.key.0));
        same.map(|row| Item::Done(SubmitOutcome::Existing(Box::new(row)))).ok_or_else(missing)
    }

    fn store_tags(&self, fixed: &Fixed) -> Result<(), StoreError> {
        for tag in &fixed.tags {
            let mut statement =
                self.db.prepare_cached("INSERT OR IGNORE INTO tag (tag, key) VALUES (?, ?)")?;
            statement.execute(params![tag, fixed.key.0])?;
        }
        Ok(())
    }

    fn store_engine(&mut self, fixed: &Fixed) -> Result<(), StoreError> {
        if self
            .memory
            .engine
            .as_ref()
            .is_some_and(|(t, name)| (t, name) == (&fixed.engine_type, &fixed.engine))
        {
            return Ok(());
        }
        let mut statement =
            self.db.prepare_cached("INSERT OR IGNORE INTO engine (type, name) VALUES (?, ?)")?;
        statement.execute([&fixed.engine_type, &fixed.engine])?;
        self.memory.engine = Some((fixed.engine_type.clone(), fixed.engine.clone()));
        Ok(())
    }
}

/// The texts of a new row's events, that of its grant included.
fn events(history: &[Event], grant: Option<&Transition>) -> Result<Vec<String>, StoreError> {
    history.iter().chain(grant.map(|grant| &grant.event)).map(to_json).collect()
}

fn trace_submit(
    trace: &mut Trace,
    new: &New,
    grant: Option<&Transition>,
    events: &[String],
) -> Result<(), StoreError> {
    let fixed = &new.row.fixed;
    let mut change = |state: &State, event: &str| {
        trace.change(&ChangeText {
            key: fixed.key,
            ext_id: fixed.ext_id.as_ref().map(|id| id.as_str()),
            engine: &fixed.engine,
            status: state.status,
            holder: state.holder,
            event,
        })
    };
    let submitted = new.row.history.len();
    if let Some(event) = submitted.checked_sub(1).and_then(|last| events.get(last)) {
        change(&new.row.state, event)?;
    }
    if let (Some(grant), Some(event)) = (grant, events.get(submitted)) {
        change(&grant.next, event)?;
    }
    Ok(())
}
