//! Keys of the type `demo`.

use crate::config::types::{Whole, section};
use enginehouse_runtime::EndpointSettings;

section! {
    /// Keys of the type `demo`, which runs inside the service.
    pub struct DemoRaw {
        /// Endpoints it pretends to have.
        endpoint_count: Whole<1, 256> = Whole(1);
    }
}

/// As many endpoints as it pretends to have.
pub(super) fn resolve(raw: &DemoRaw) -> Vec<EndpointSettings> {
    let DemoRaw { endpoint_count } = raw;
    let names = (1..=endpoint_count.0).map(|n| format!("demo-{n}"));
    names.map(|name| EndpointSettings { name, weight: 1.0 }).collect()
}
