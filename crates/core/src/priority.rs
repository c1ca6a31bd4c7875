//! How important an execution is.

use serde::{Deserialize, Serialize};

/// Importance; what it means in time is [`HeadStarts`](crate::rank::HeadStarts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

impl Priority {
    pub const ALL: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Low => "LOW",
            Priority::Normal => "NORMAL",
            Priority::High => "HIGH",
            Priority::Critical => "CRITICAL",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Priority> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }

    /// 1 (LOW) to 4 (CRITICAL), the numeric form of the API.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Priority> {
        usize::try_from(number - 1).ok().and_then(|i| Self::ALL.get(i).copied())
    }
}
