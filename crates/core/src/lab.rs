//! The lab: a trace of jobs runs through the real queue, gates, auto-scaler and pool plan in virtual time.
//!
//! What is simulated is only what lies outside of the service: workers that take a start-up time, and engines that run at a
//! speed that may fall with concurrency. Everything that decides is the code that decides in the service. Times are whole
//! milliseconds from the beginning of the trace; the same inputs give the same run, bit for bit.
//!
//! Physics: a worker is paid from its launch until it is gone; a job holds one slot until it ends; engine `e` with `n` runs
//! gives each the speed `speed * min(1, (knee / n)^(1 + gamma))`. At one instant engines change first, then runs end, workers
//! become ready, jobs arrive, the policy acts, and work is started.

mod clairvoyant;
mod engine;
mod house;
mod measure;
mod policy;
mod run;
mod scenario;
pub mod traffic;

pub use clairvoyant::{Clairvoyant, clairvoyant};
pub use measure::{Measures, Waits, measure};
pub use policy::{DelayedOff, Fixed, LabPolicy, Orders};
pub use run::{GATHER, JobTimes, LabRun, Tick, run};
pub use scenario::{EngineChange, EngineShape, Job, Scenario, ScenarioError};

#[cfg(test)]
mod tests;
