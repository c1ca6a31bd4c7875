//! The tables, and how older ones become these: numbered steps, forward only.

use crate::StoreError;
use rusqlite::Connection;

/// Marks the file as ours (the letters "Engh"), for `file` and for us.
pub(super) const APPLICATION_ID: i64 = 0x456e_6768;
/// The oldest format that can still be brought forward.
pub(super) const OLDEST: i64 = 1;

/// Step n makes format n + 1 (counted from 0); the first makes everything.
const STEPS: [&str; 3] = [
    include_str!("migrations/0001_executions.sql"),
    include_str!("migrations/0002_packed_feed.sql"),
    include_str!("migrations/0003_abandoned.sql"),
];

/// The format this program reads and writes.
pub(super) const NEWEST: i64 = STEPS.len() as i64;

/// What a file says it is.
pub(super) struct Identity {
    pub(super) application_id: i64,
    pub(super) format: i64,
    pub(super) tables: i64,
}

impl Identity {
    pub(super) fn read(db: &Connection) -> Result<Identity, StoreError> {
        let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
        Ok(Identity {
            application_id: number("PRAGMA application_id")?,
            format: number("PRAGMA user_version")?,
            tables: number("SELECT count(*) FROM sqlite_schema")?,
        })
    }

    /// Nothing was ever stored in it.
    pub(super) fn is_empty(&self) -> bool {
        self.application_id == 0 && self.format == 0 && self.tables == 0
    }

    /// Refuses what this program must not touch; `name` is the file.
    pub(super) fn check(&self, name: &str) -> Result<(), StoreError> {
        let refused = |why: String| Err(StoreError::Refused(why));
        if self.is_empty() {
            return Ok(());
        }
        if self.application_id != APPLICATION_ID {
            return refused(format!(
                "{name} is an SQLite file of another program; choose another data directory"
            ));
        }
        if self.format > NEWEST {
            return refused(format!(
                "{name} has format {}, but this program (version {}) knows formats {OLDEST} to {NEWEST}: \
                 use the newer program that wrote it, or restore a backup made before the upgrade",
                self.format,
                env!("CARGO_PKG_VERSION")
            ));
        }
        if self.format < OLDEST {
            return refused(format!(
                "{name} has format {}, but this program (version {}) knows formats {OLDEST} to {NEWEST}: \
                 open it once with an older release that still knows both",
                self.format,
                env!("CARGO_PKG_VERSION")
            ));
        }
        Ok(())
    }
}

/// Takes the steps that are missing, each in its own transaction.
pub(super) fn migrate(db: &Connection, identity: &Identity) -> Result<(), StoreError> {
    let done = usize::try_from(identity.format).unwrap_or(0);
    for (step, sql) in STEPS.iter().enumerate().skip(done) {
        let format = step + 1;
        tracing::info!(format, "bringing the store to its next format");
        db.execute_batch(&format!(
            "BEGIN IMMEDIATE; {sql}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {format}; COMMIT"
        ))
        .inspect_err(|_| {
            // The failed step is taken back, so that the file stays at a format some program knows.
            let _ = db.execute_batch("ROLLBACK");
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables as text, in the order they were made.
    fn schema(db: &Connection) -> String {
        let mut statement =
            db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid").expect("schema");
        let parts = statement.query_map([], |row| row.get::<_, String>(0)).expect("schema");
        parts.map(|sql| sql.expect("text") + ";\n").collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn schema_sql_equals_all_steps() {
        let db = Connection::open_in_memory().expect("memory");
        migrate(&db, &Identity::read(&db).expect("identity")).expect("steps");
        let made = schema(&db);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sqlite/schema.sql");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &made).expect("schema.sql");
        }
        let committed = include_str!("schema.sql");
        assert_eq!(committed, made, "run the test once with UPDATE_SCHEMA=1 and review schema.sql");
    }

    #[test]
    fn the_feed_of_the_first_format_is_read_on() {
        let db = Connection::open_in_memory().expect("memory");
        db.execute_batch(STEPS[0]).expect("the first format");
        let body = r#"{"node":3,"changes":[],"notes":[{"type":"n","data":null}]}"#;
        db.execute("INSERT INTO feed (seq, at, body) VALUES (7, 5, ?)", [body]).expect("a commit");
        let identity = Identity { application_id: APPLICATION_ID, format: 1, tables: 1 };
        migrate(&db, &identity).expect("the steps that are missing");
        let page = super::super::feed::read(&db, crate::Cursor(6), 9).expect("the feed");
        let commit = page.commits.first().expect("the commit");
        assert_eq!((commit.cursor.0, commit.at.0, commit.node.0, commit.notes.len()), (7, 5, 3, 1));
    }

    #[test]
    fn identities_are_judged() {
        let ours = |format| Identity { application_id: APPLICATION_ID, format, tables: 3 };
        assert!(Identity { application_id: 0, format: 0, tables: 0 }.check("f").is_ok());
        assert!(ours(NEWEST).check("f").is_ok());
        let rows = [
            (Identity { application_id: 0, format: 0, tables: 1 }, "another program"),
            (Identity { application_id: 7, format: 1, tables: 1 }, "another program"),
            (ours(NEWEST + 1), "newer program"),
            (ours(OLDEST - 1), "older release"),
        ];
        for (identity, expected) in rows {
            let refusal = identity.check("f").expect_err("refused").to_string();
            assert!(refusal.contains(expected), "{refusal}");
        }
    }
}
