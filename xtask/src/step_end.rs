//! How a step of `cargo xtask ci` ended.

/// How a step ended, if it did not fail.
pub(crate) enum StepEnd {
    /// With what it has to say for itself.
    Passed(String),
    /// With the reason.
    Skipped(String),
}
