//! How many workers there should be: what is observed, what is decided on it, and the record of both.
//!
//! The rule itself is `core/autoscaler`, and bringing the workers to that number is the work of the room `workers`. The rules in
//! force and the last decision are a part of the state, so that everybody may read them.
//!
//! Rooms it may use: `workers`, `state`, `machine`, `role`.

pub(crate) mod observe;
pub(crate) mod records;
pub(crate) mod scaler;
