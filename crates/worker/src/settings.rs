//! What a worker needs to know beside its link.

use enginehouse_core::time::Millis;
use enginehouse_engine::Engine;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The adapters by configured engine name.
pub type Engines = BTreeMap<String, Arc<dyn Engine>>;

#[derive(Debug, Clone, Copy)]
pub struct WorkerSettings {
    /// How long an engine may take to stop a run before its call is abandoned.
    pub cancel_grace: Millis,
}
