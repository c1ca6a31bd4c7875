//! `cargo xtask bench`: figures about the service, measured in virtual time where that is possible.

mod limiter;

use anyhow::{Result, bail};

const HELP: &str = "\
Figures about the service. Each prints its table and fails when a promise about it does not hold.

Usage: cargo xtask bench NAME

  limiter   what is completed on an engine that degrades under load: with each fixed limit, with the
            adaptive one, and without any; in virtual time, a minute or two
";

pub(crate) fn command(args: &[String]) -> Result<()> {
    if crate::helped(args, HELP) {
        return Ok(());
    }
    match args {
        [name] if name == "limiter" => limiter::run(),
        [] => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("{args:?} is no bench\n\n{HELP}"),
    }
}
