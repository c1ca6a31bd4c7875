//! Keys of the type `command`: a local program.

use crate::config::checker::Checker;
use crate::config::secret::Private;
use crate::config::types::{FilePath, Span, Texts, choice, section};
use enginehouse_core::time::{HOUR, SECOND};
use enginehouse_engine::{CommandConfig, CommandOutput};
use std::collections::BTreeMap;

section! {
    /// Keys of the type `command`. The parameters are the program's standard input as JSON; its standard error is kept as logs.
    pub struct CommandRaw {
        /// The program's absolute path, then its arguments; there is no shell.
        argv: Texts = Texts(Vec::new());
        /// The whole environment of the program, by name.
        env: BTreeMap<String, Private> = BTreeMap::new();
        /// What the program writes to its standard output.
        output: OutputWord = OutputWord::Json;
        /// Each attempt gets a directory of its own below this one. Absent: the system's directory for temporary files.
        work_dir: Option<FilePath> = None;
        /// From the wish to stop (SIGTERM) to the kill of the whole process group.
        kill_after: Span<0, HOUR> = Span(5 * SECOND);
    }
}

choice! {
    /// What a program writes.
    pub enum OutputWord {
        /// One JSON value.
        Json "json",
        /// Text, which becomes a JSON string.
        Text "text",
    }
}

pub(super) fn resolve(raw: &CommandRaw, path: &str, checker: &mut Checker<'_>) -> CommandConfig {
    let CommandRaw { argv, env, output, work_dir, kill_after } = raw;
    if argv.0.is_empty() {
        checker.fault(&format!("{path}/argv"), "is missing: the program's absolute path, then its arguments");
    }
    let env = checker.read_all(env, &format!("{path}/env"));
    CommandConfig {
        env,
        output: match output {
            OutputWord::Json => CommandOutput::Json,
            OutputWord::Text => CommandOutput::Text,
        },
        work_dir: work_dir.as_ref().map_or_else(std::env::temp_dir, FilePath::expanded),
        kill_after: kill_after.duration(),
        ..CommandConfig::new(argv.0.clone())
    }
}
