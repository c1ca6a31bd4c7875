//! Prints docs/openapi.json.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

fn main() {
    print!("{}", enginehouse_server::openapi_json());
}
