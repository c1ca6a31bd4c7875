//! The policy and the pool plan as properties and tables.

mod decisions;
mod invariants;
mod world;
