//! What an SQLite error means to a caller of the store.

use crate::StoreError;
use rusqlite::{Error, ErrorCode};

impl From<Error> for StoreError {
    fn from(error: Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt(error.to_string())
            }
            Some(ErrorCode::OperationInterrupted) => {
                StoreError::Unavailable("the query took longer than its limit".to_owned())
            }
            Some(_) => StoreError::Unavailable(error.to_string()),
            // The engine answered, but with a value of another type or range than the program writes.
            None => StoreError::Corrupt(error.to_string()),
        }
    }
}

/// A stored value that no version of this program writes.
pub(super) fn corrupt(what: &str, problem: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {problem}"))
}
