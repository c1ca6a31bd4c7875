//! What people see of a node without asking for an execution: the history of its figures, alerts, and traces.
//!
//! These roles read and tell, and decide nothing that work depends on. Figures that are counted on the way are a part of the
//! state, and those that are read off when someone asks belong to the room `service`.
//!
//! Rooms it may use: `service`, `state`, `machine`, `role`.

pub(crate) mod tracer;
pub(crate) mod watcher;
