//! `[log]`: what the service tells about itself on standard error. The program's own affair; a node has no part in it.

use crate::config::types::{Text, choice, section};

section! {
    /// What the service tells about itself on standard error.
    pub struct Log {
        /// The least severe level that is written, for all or by module: `warn`, or `info,enginehouse_engine=debug`.
        level: Text = Text("info".to_owned());
        /// How lines are written.
        format: LogFormat = LogFormat::Text;
    }
}

choice! {
    /// How log lines are written.
    pub enum LogFormat {
        /// For people.
        Text "text",
        /// One JSON object a line.
        Json "json",
    }
}
