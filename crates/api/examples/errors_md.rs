//! Prints docs/ERRORS.md.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(enginehouse_api::errors_markdown().as_bytes())
}
