//! Keys of the type `langflow`.

use crate::config::types::{Flag, choice, section};
use enginehouse_engine::LangflowConfig;
use enginehouse_engine::config::HttpSettings;
use enginehouse_engine::langflow::LangflowApi;

section! {
    /// Keys of the type `langflow`. The API key is sent as `x-api-key`.
    pub struct LangflowRaw {
        /// Which of Langflow's interfaces runs the flows.
        api: ApiWord = ApiWord::V2;
        /// Hands `parameters.tweaks` on, which change the fields of a flow's components.
        allow_tweaks: Flag = Flag(false);
        /// Hands `parameters.globals` on, which stand in for Langflow's global variables.
        allow_globals: Flag = Flag(false);
        /// A run that asks a human is waited for, instead of ending as failed with the code `needs_input`.
        wait_for_input: Flag = Flag(false);
        /// Reads a run's events for progress.
        progress: Flag = Flag(true);
    }
}

choice! {
    /// Langflow's interfaces.
    pub enum ApiWord {
        /// Background jobs, which can be stopped and taken up again.
        V2 "v2",
        /// One request per run, for what v2 does not serve: nothing can be stopped or taken up again.
        V1 "v1",
    }
}

pub(super) fn resolve(raw: &LangflowRaw, http: HttpSettings, allow_inline: bool) -> LangflowConfig {
    let LangflowRaw { api, allow_tweaks, allow_globals, wait_for_input, progress } = raw;
    LangflowConfig {
        http,
        api: match api {
            ApiWord::V2 => LangflowApi::V2,
            ApiWord::V1 => LangflowApi::V1,
        },
        allow_inline,
        allow_tweaks: allow_tweaks.0,
        allow_globals: allow_globals.0,
        wait_for_input: wait_for_input.0,
        progress: progress.0,
    }
}
