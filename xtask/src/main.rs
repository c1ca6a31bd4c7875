//! The project's own chores: `cargo xtask COMMAND`.
//!
//! Everything a person or a machine does with this repository is one of these commands, so that what runs in CI is
//! what runs at a desk.

#![allow(clippy::print_stdout, reason = "what these commands have to say goes to the terminal")]

mod api;
mod bench;
mod chaos;
mod ci;
mod deploy;
mod docs;
mod e2e;
mod examples;
mod process;
mod schemathesis;
mod start;
mod step_end;
mod suite;
mod tidy;
mod witness;

use anyhow::{Result, bail};
use std::process::ExitCode;

const HELP: &str = "\
Chores of the Enginehouse repository.

Usage: cargo xtask COMMAND [--help]

  start   build the service, run it with the demo engine and a little sample traffic
  test    run the tests
  ci      everything a change must pass
  chaos   the simulation on many seeds of faults, zombies, and planted faults
  e2e     drive the real n8n, Langflow and LangGraph Agent Server
  bench   measurements that print numbers
  tidy    check what the compiler does not: crate edges, sizes, names, links
  docs    print the generated pages of docs/
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    match command.as_str() {
        "start" => start::command(rest),
        "test" => suite::command(rest),
        "ci" => ci::command(rest),
        "bench" => bench::command(rest),
        "chaos" => chaos::command(rest),
        "e2e" => e2e::command(rest),
        "tidy" => tidy::command(rest),
        "docs" => docs::command(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("there is no command {other:?}\n\n{HELP}"),
    }
}

/// Prints the help of a command if it was asked for.
fn helped(args: &[String], help: &str) -> bool {
    let asked = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h");
    if asked {
        print!("{help}");
    }
    asked
}
