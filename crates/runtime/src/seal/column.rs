//! What a sealed payload is bound to beside its execution, so that it opens nowhere else.

use enginehouse_core::lifecycle::Part;

/// What a sealed payload is bound to beside its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Input,
    Output,
    Logs,
    Failure,
    /// A fact an adapter keeps; it belongs to no execution.
    Fact,
    /// A part of a result that lies in a blob: of which one, and the how many-th.
    Frame([u8; BLOB_NAME], u32),
    /// What stands in the place of such a result and tells where it lies.
    Manifest,
}

/// Bytes of the name of a blob.
pub(crate) const BLOB_NAME: usize = 16;

impl Column {
    /// Adds what a record is bound to; a number never changes its meaning.
    pub(super) fn bind(self, bound: &mut Vec<u8>) {
        bound.push(match self {
            Column::Input => 1,
            Column::Output => 2,
            Column::Logs => 3,
            Column::Failure => 4,
            Column::Fact => 5,
            Column::Frame(..) => 6,
            Column::Manifest => 7,
        });
        if let Column::Frame(blob, index) = self {
            bound.extend_from_slice(&blob);
            bound.extend_from_slice(&index.to_be_bytes());
        }
    }
}

impl From<Part> for Column {
    fn from(part: Part) -> Column {
        match part {
            Part::Input => Column::Input,
            Part::Output => Column::Output,
            Part::Logs => Column::Logs,
        }
    }
}
