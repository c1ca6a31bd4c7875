//! `enginehouse encryption`.

use super::output::Output;
use super::{Exit, Failure};
use clap::{Args, Subcommand};
use enginehouse_api::EncryptionView;
use enginehouse_api::client::Client;

/// Check and rotate the keys that encrypt payloads
#[derive(Debug, Args)]
pub(crate) struct Encryption {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Count what is stored by the key it needs; fails when a key is missing
    Check,
    /// Let a new data key seal from here on, and seal the data keys with the first seal key that is there now
    Rotate,
}

impl Encryption {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let view = match self.verb {
            Verb::Check => client.encryption().await?,
            Verb::Rotate => client.rotate_encryption().await?,
        };
        if output.is_json() {
            output.document(&view)?;
        } else {
            show(&view, output)?;
        }
        Ok(if view.verdict == "ok" { Exit::Done } else { Exit::CallFailed })
    }
}

fn show(view: &EncryptionView, output: &mut Output) -> Result<(), Failure> {
    let seals = view.seal_keys.first().map_or("none", String::as_str);
    let source = &view.seal_key_source;
    output.line(&format!("seal key {seals} from {source}; it sealed the data keys at {}", view.sealed_at))?;
    for spare in view.seal_keys.iter().skip(1) {
        output.line(&format!("seal key {spare} is only needed for backups from before then"))?;
    }
    let rows: Vec<Vec<String>> = view
        .data_keys
        .iter()
        .map(|key| {
            let state = match (key.retired_at, key.stored) {
                (None, _) => "seals".to_owned(),
                (Some(_), 0) => "nothing needs it".to_owned(),
                (Some(at), _) => format!("retired at {at}"),
            };
            let (made, sealed) = (key.made_at.to_string(), key.records.to_string());
            vec![key.id.clone(), made, sealed, key.stored.to_string(), state]
        })
        .collect();
    output.table(&["DATA KEY", "MADE", "SEALED", "STORED", "STATE"], &rows)?;
    if view.plain > 0 {
        output.line(&format!("{} payloads are not encrypted", view.plain))?;
    }
    if view.unknown > 0 {
        output.line(&format!("{} payloads are damaged, or of a newer program", view.unknown))?;
    }
    for missing in &view.missing {
        output.line(&format!(
            "{} payloads need data key {}, which is not there: restore a backup that has it",
            missing.stored, missing.id
        ))?;
    }
    Ok(())
}
