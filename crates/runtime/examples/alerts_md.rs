//! Prints docs/ALERTS.md.

#![allow(clippy::print_stdout, reason = "the page goes to the standard output")]

fn main() {
    print!("{}", enginehouse_runtime::alerts_markdown());
}
