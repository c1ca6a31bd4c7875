//! `enginehouse storage`.

use super::output::{Output, age, lasting};
use super::{Exit, Failure};
use clap::Args;
use enginehouse_api::client::Client;

/// Show what is stored, its size and how long it is kept
#[derive(Debug, Args)]
pub(crate) struct Storage {}

impl Storage {
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let view = client.storage().await?;
        if output.is_json() {
            output.document(&view)?;
            return Ok(Exit::Done);
        }
        let (rows, kept) = (&view.executions, &view.retention);
        let now = jiff::Timestamp::now();
        let ended =
            format!("{} completed, {} failed, {} cancelled", rows.completed, rows.failed, rows.cancelled);
        let bounds = [
            kept.age_ms.map(|ms| format!("{} after their end", lasting(ms))),
            kept.executions_max.map(|most| format!("at most {most}")),
            kept.bytes_max.map(|most| format!("at most {} in all", bytes(most))),
        ];
        let bounds: Vec<String> = bounds.into_iter().flatten().collect();
        let last = kept.last_at.map(|at| {
            let (removed, emptied, took) = (kept.last_removed, kept.last_emptied, lasting(kept.last_took_ms));
            format!("{} ago: {removed} removed, {emptied} emptied, in {took}", age(at, now))
        });
        let blobs = view.blobs.as_ref().map(|blobs| {
            let (count, held, above) = (blobs.count, bytes(blobs.bytes), bytes(blobs.inline_max));
            format!("{count} above {above}, {held}, in {}", blobs.place)
        });
        output.fields(&[
            ("pending", Some(rows.pending.to_string())),
            ("running", Some(rows.running.to_string())),
            ("ended", Some(ended)),
            ("oldest ended", view.oldest_ended_at.map(|at| format!("{} ago", age(at, now)))),
            ("removed so far", Some(rows.removed.to_string())),
            ("in use", Some(bytes(view.bytes))),
            ("free in the files", Some(bytes(view.reclaimable_bytes))),
            ("log", Some(bytes(view.log_bytes))),
            ("feed", Some(bytes(view.feed_bytes))),
            ("large results", blobs),
            ("free on the disk", view.disk_free_bytes.map(bytes)),
            (
                "ended are kept",
                Some(if bounds.is_empty() { "forever".to_owned() } else { bounds.join(", ") }),
            ),
            ("retention looked", last),
            ("next due", kept.next_due_at.map(|at| at.to_string())),
        ])?;
        Ok(Exit::Done)
    }
}

/// A number of bytes with its unit.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1_024.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1_024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_their_unit() {
        let table = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
            (150 << 20, "150 MiB"),
            (3 << 40, "3.0 TiB"),
        ];
        for (count, wanted) in table {
            assert_eq!(bytes(count), wanted);
        }
    }
}
