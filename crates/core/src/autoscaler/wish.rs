//! What one decision asks for, on its way through the rules.

use super::decision::Rule;

/// What is computed, and the rule it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wish {
    pub(super) workers: u32,
    pub(super) rule: Rule,
    /// What it would be if that rule did not hold it.
    pub(super) unheld: u32,
}

impl Wish {
    pub(super) fn new(workers: u32, rule: Rule) -> Wish {
        Wish { workers, rule, unheld: workers }
    }

    /// The larger one; the earlier rule when both ask for the same.
    pub(super) fn or_more(self, workers: u32, rule: Rule) -> Wish {
        if workers > self.workers { Wish::new(workers, rule) } else { self }
    }

    /// The same, held at another number.
    pub(super) fn held(self, workers: u32, rule: Rule) -> Wish {
        Wish { workers, rule, unheld: self.workers }
    }
}
