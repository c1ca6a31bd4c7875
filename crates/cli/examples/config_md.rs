//! Prints docs/CONFIG.md.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

fn main() {
    print!("{}", enginehouse::config::markdown());
}
