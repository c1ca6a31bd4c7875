//! The program `enginehouse`: the service and its command line.

mod commands;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A huge page stays in memory whole for the few kilobytes of it that are in use, and to clear one delays anyone who touched it
    // first. Where this cannot be turned off, memory is all it costs.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_thp_disable(true);
    commands::main()
}
