//! `[storage]`: where and how executions are stored.

pub(in crate::config) mod blobs;

use crate::config::checker::Checker;
use crate::config::types::{FilePath, Flag, Span, Text, Texts, UpToAYear, Whole, section};
use blobs::{BlobPlace, BlobsRaw};
use enginehouse_core::execution::Status;
use enginehouse_core::retention::RetentionRules;
use enginehouse_core::time::DAY;
use enginehouse_runtime::{SealKeySource, Settings};
use std::collections::BTreeMap;
use std::path::PathBuf;

section! {
    /// Where and how executions are stored.
    pub struct Storage {
        /// The data directory; made at the first start. One process at a time.
        data_dir: FilePath = FilePath("data".into());
        /// The file of the seal key, which seals the store's own keys; made at the first start with mode 0600. Without it nothing stored can be read again, so keep a copy of it apart from the backups. A key a line: the first seals, the others only open. Absent: a file of its own for each data directory in `$XDG_CONFIG_HOME/enginehouse` (or `~/.config/enginehouse`).
        seal_key_file: Option<FilePath> = None;
        /// An environment variable that holds the seal key, 64 hexadecimal digits, instead of a file.
        seal_key_env: Option<Text> = None;
        /// A program with its arguments that writes the seal key to its standard output within 30 seconds, instead of a file.
        seal_key_command: Option<Texts> = None;
        /// A data key, with which payloads are sealed, is followed by another at this age.
        data_key_age: UpToAYear = Span(90 * DAY);
        /// A data key is followed by another once it sealed this many records.
        data_key_records: Whole<1, 1000000000000> = Whole(1_000_000_000);
        /// Days after its end after which an execution is removed, with its request, result, log and events. 0: it is kept forever.
        result_retention_days: Whole<0, 36500> = Whole(30);
        /// Other days for the status `completed`, `failed` or `cancelled`.
        retention_days_of_status: BTreeMap<String, Whole<1, 36500>> = BTreeMap::new();
        /// Other days for an engine, by its name; they count more than those of a status.
        retention_days_of_engine: BTreeMap<String, Whole<1, 36500>> = BTreeMap::new();
        /// The most ended executions kept; the oldest go first. Absent: any number.
        ended_max: Option<Whole<1, 1000000000>> = None;
        /// The most MiB that the store and its blobs may use, beside the feed of at most 256 MiB; the oldest ended executions go first. Absent: as the disk has room.
        max_mib: Option<Whole<16, 1073741824>> = None;
        /// KiB above which a result lies outside of the store, sealed in a blob of its own.
        inline_max_kib: Whole<64, 65536> = Whole(256);
        /// Where such results lie.
        blobs: BlobsRaw = BlobsRaw::default();
        /// MiB of results kept in memory for a minute, for who waits for them or reads them again. 0: none.
        result_cache_mib: Whole<0, 65536> = Whole(16);
        /// Payloads are compressed (zstd) before they are encrypted. What is stored already stays as it is.
        compression_enabled: Flag = Flag(true);
        /// Payloads are encrypted (AES-256-GCM) at rest. Without it anyone who has the files can read and change them. What is stored already stays as it is.
        encryption_enabled: Flag = Flag(true);
    }
}

/// What is opened before a node is started.
pub(in crate::config) struct Place {
    pub(in crate::config) data_dir: PathBuf,
    pub(in crate::config) blobs: BlobPlace,
    pub(in crate::config) seal_key: Option<SealKeySource>,
}

/// `is_engine`: whether an engine of that name is configured.
pub(in crate::config) fn resolve(
    raw: &Storage,
    is_engine: impl Fn(&str) -> bool,
    settings: &mut Settings,
    checker: &mut Checker<'_>,
) -> Place {
    let Storage {
        data_dir,
        seal_key_file: file,
        seal_key_env: env,
        seal_key_command: command,
        data_key_age,
        data_key_records,
        result_retention_days: _,
        retention_days_of_status: _,
        retention_days_of_engine: _,
        ended_max: _,
        max_mib: _,
        inline_max_kib,
        blobs,
        result_cache_mib,
        compression_enabled,
        encryption_enabled,
    } = raw;
    settings.result_cache_bytes = usize::try_from(result_cache_mib.0 << 20).unwrap_or(usize::MAX);
    settings.seal.compress = compression_enabled.0;
    settings.seal.encrypt = encryption_enabled.0;
    settings.seal.data_key_age = data_key_age.0;
    settings.seal.data_key_records = data_key_records.0;
    let seal_key = seal_key(file.as_ref(), env.as_ref(), command.as_ref(), checker);
    settings.retention = retention(raw, is_engine, checker);
    let blobs = blobs::resolve(blobs, inline_max_kib.0, checker);
    Place { data_dir: data_dir.expanded(), blobs, seal_key }
}

/// Where the seal key comes from; `None`: where the data directory says.
fn seal_key(
    file: Option<&FilePath>,
    env: Option<&Text>,
    command: Option<&Texts>,
    checker: &mut Checker<'_>,
) -> Option<SealKeySource> {
    let file = file.map(|path| SealKeySource::File(path.expanded()));
    let env = env.map(|name| SealKeySource::Env(name.0.clone()));
    let command = command.map(|words| SealKeySource::Command(words.0.clone()));
    if matches!(&command, Some(SealKeySource::Command(words)) if words.is_empty()) {
        checker.fault("storage/seal_key_command", "must name a program");
    }
    let mut given = [file, env, command].into_iter().flatten();
    let first = given.next();
    checker.require(given.next().is_none(), "storage", || {
        "the seal key comes from one place: seal_key_file, seal_key_env or seal_key_command".to_owned()
    });
    first
}

/// How long what has ended is kept.
fn retention(raw: &Storage, is_engine: impl Fn(&str) -> bool, checker: &mut Checker<'_>) -> RetentionRules {
    let Storage {
        result_retention_days,
        retention_days_of_status,
        retention_days_of_engine,
        ended_max,
        max_mib,
        ..
    } = raw;
    let mut rules = RetentionRules {
        age: Some(result_retention_days.0).filter(|days| *days > 0).map(|days| days * DAY),
        rows_max: ended_max.map(|most| most.0),
        bytes_max: max_mib.map(|mib| mib.0 << 20),
        ..RetentionRules::default()
    };
    for (word, days) in retention_days_of_status {
        match Status::parse(word).filter(|status| status.is_terminal()) {
            Some(status) => drop(rules.of_status.insert(status, days.0 * DAY)),
            None => checker.fault(
                &format!("storage/retention_days_of_status/{word}"),
                "is not a status in which executions end: completed, failed or cancelled",
            ),
        }
    }
    for (name, days) in retention_days_of_engine {
        checker.require(is_engine(name), &format!("storage/retention_days_of_engine/{name}"), || {
            "is not the name of a configured engine".to_owned()
        });
        rules.of_engine.insert(name.clone(), days.0 * DAY);
    }
    rules
}
