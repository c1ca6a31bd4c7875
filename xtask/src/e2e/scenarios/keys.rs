//! Whether an engine takes its key is told before anything is run on it, with the place that the key came from.

use super::stage::{SOON, Stage, WRONG_KEY, until};
use crate::e2e::house::place;
use crate::e2e::table::Cell;
use anyhow::{Result, bail};

/// Asked by `engines test` and `doctor`, and told in the log by the start itself.
pub(super) fn looked_at(stage: &mut Stage) -> Result<Cell> {
    let file = format!("it refuses the API key from the file {}", place("wrong.key").display());
    let told = [
        ("real", "it takes the API key from the environment variable E2E_ENGINE_KEY", 0),
        ("wrong-key", "it refuses the API key from the environment variable E2E_WRONG_KEY", 1),
        ("wrong-file", &file, 1),
    ];
    for (_, words, _) in told {
        let start = || format!("a line of the start that says {words:?}");
        until(SOON, start, || Ok(stage.house.log().contains(words).then_some(())))?;
    }
    let mut said = String::new();
    for (name, words, exit) in told {
        let (code, tested) = stage.house.cli(&["engines", "test", name])?;
        if code != Some(exit) || !tested.contains(words) {
            bail!("engines test {name} ended with {code:?} and said {tested}");
        }
        said += &tested;
    }
    let (code, doctor) = stage.house.cli(&["doctor"])?;
    for (name, words, exit) in told {
        let verdict = if exit == 0 { "ok " } else { "failed " };
        let is_it = |line: &str| line.starts_with(verdict) && line.contains(&format!(" {name} at "));
        if code != Some(1) || !doctor.lines().any(|line| is_it(line) && line.contains(words)) {
            bail!("doctor ended with {code:?} and said of {name}: {doctor}");
        }
    }
    if (said + &doctor + &stage.house.log()).contains(WRONG_KEY) {
        bail!("the key itself is told");
    }
    let answer = doctor.lines().find(|line| line.contains("E2E_WRONG_KEY")).unwrap_or_default();
    let answer = answer.split_once(": it refuses ").map_or(answer, |(_, words)| words);
    Ok(Cell::Ok(format!(
        "start, engines test and doctor: the good key is taken, {answer:?} of the wrong one"
    )))
}
