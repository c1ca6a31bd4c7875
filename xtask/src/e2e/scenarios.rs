//! The rows of the table. A scenario drives the service through its HTTP API and reads what happened from the engine's
//! own record; it gives its evidence in words, or an error that says what was seen instead.

mod crashes;
mod ends;
mod keys;
mod odd;
mod stage;
mod threads;

use super::table::Cell;
use anyhow::Result;
pub(super) use stage::Stage;

/// One row of the table.
type Scenario = fn(&mut Stage) -> Result<Cell>;

pub(super) const ALL: [(&str, Scenario); 24] = [
    ("echo", ends::echo),
    ("parameters in, result out", ends::parameters),
    ("slow, cancelled while running", ends::cancelled),
    ("slow, past its timeout", ends::timed_out),
    ("fail", ends::fails),
    ("flaky, retried", ends::flaky),
    ("big", ends::big),
    ("wrong key", ends::wrong_key),
    ("keys, looked at beforehand", keys::looked_at),
    ("unknown workflow", ends::unknown_workflow),
    ("inline definition", ends::inline),
    ("20 at once", ends::twenty),
    ("other ways to be tracked", ends::other_ways),
    ("a foreign page at one poll", odd::foreign_page),
    ("a health route that is missing", odd::no_health_route),
    ("the workflow's own 404, 429, 503", odd::own_status),
    ("executions that are not saved", odd::unsaved),
    ("cancelled before its id is told", odd::untold_cancelled),
    ("two runs on one thread", threads::two_runs),
    ("a thread that is busy", threads::busy_thread),
    ("stopped at a breakpoint", threads::breakpoint),
    ("engine stopped, then started", crashes::engine_stopped),
    ("engine killed in mid-run", crashes::engine_killed),
    ("Enginehouse killed in mid-run", crashes::house_killed),
];
