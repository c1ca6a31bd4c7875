//! Keys of the type `langsmith`.

use crate::config::types::{Texts, section};
use enginehouse_engine::LangsmithConfig;
use enginehouse_engine::config::HttpSettings;

section! {
    /// Keys of the type `langsmith`: LangSmith Deployment and every other LangGraph Agent Server. The API key is sent as `x-api-key`.
    pub struct LangsmithRaw {
        /// What a run streams as progress: such as `custom`, `updates`, `messages`; empty for none.
        stream_modes: Texts = Texts(vec!["custom".to_owned(), "updates".to_owned()]);
    }
}

pub(super) fn resolve(raw: &LangsmithRaw, http: HttpSettings) -> LangsmithConfig {
    let LangsmithRaw { stream_modes } = raw;
    LangsmithConfig { http, stream_modes: stream_modes.0.clone() }
}
