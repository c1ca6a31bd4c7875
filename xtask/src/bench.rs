//! `cargo xtask bench WHAT`: measurements that print numbers. What they need to run is built first.

mod autoscale;

use anyhow::{Result, bail};

const HELP: &str = "\
Measurements; each prints its numbers and says where its charts lie.

Usage: cargo xtask bench WHAT [--help]

  autoscale   what one decision of the auto-scaler costs, and what each part of it is worth
";

pub(crate) fn command(args: &[String]) -> Result<()> {
    match args.split_first() {
        Some((what, rest)) if what == "autoscale" => autoscale::command(rest),
        Some((what, _)) if !what.starts_with('-') => bail!("there is no measurement {what:?}\n\n{HELP}"),
        _ => {
            print!("{HELP}");
            Ok(())
        }
    }
}
