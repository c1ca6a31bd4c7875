//! The real service in front of simulated engines that get slower with every call at once and then answer 503
//! (`crates/runtime/tests/simulation/degrading.rs`).

use crate::chaos;
use crate::process::watched;
use anyhow::{Result, bail};
use std::process::Command;

const TEST: &str = "degrading::the_adaptive_limit_keeps_what_the_best_fixed_one_does";

pub(super) fn run() -> Result<()> {
    let program = chaos::built(&[])?;
    let mut command = Command::new(program);
    command.args(["--exact", TEST, "--nocapture"]).env("FULL", "1");
    if watched(&mut command, &mut |_| {})? {
        return Ok(());
    }
    bail!("the adaptive limit does not keep up with the best fixed one")
}
