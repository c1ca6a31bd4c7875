//! Webhooks: what a receiver's answer means, and when to try again.

use crate::time::{HOUR, MINUTE, Millis, SECOND};

/// Pauses between one attempt and the next; the last attempt has none behind it. About four days in all.
pub const PAUSES: [Millis; 10] = [
    5 * SECOND,
    30 * SECOND,
    2 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    6 * HOUR,
    12 * HOUR,
    24 * HOUR,
    48 * HOUR,
];

/// The longest pause that a receiver may ask for.
const ASKED_MAX: Millis = HOUR;

/// What one attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The status of an answer, and for how long the receiver asked to be left alone.
    Status(u16, Option<Millis>),
    /// None came: no connection, no answer in time, a refused address.
    None,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Tried again after this long.
    Again(Millis),
    /// Given up: a dead letter, until someone replays it.
    Dead,
}

/// Judges an attempt. `attempts`: those that were made, this one included; `draw`: random, in `[0, 1)`.
///
/// 2xx is delivered; 410 ends it, because the receiver says that it is gone for good; everything else, a redirect too, is tried
/// again until the pauses are used up. A pause is drawn between half of it and one and a half times it, so that what failed
/// together does not come back together; what a receiver asks for (`Retry-After`) is the least.
#[must_use]
pub fn judge(answer: Reply, attempts: u32, draw: f64) -> Verdict {
    let asked = match answer {
        Reply::Status(200..=299, _) => return Verdict::Delivered,
        Reply::Status(410, _) => return Verdict::Dead,
        Reply::Status(_, asked) => asked.unwrap_or(0).min(ASKED_MAX),
        Reply::None => 0,
    };
    let at = usize::try_from(attempts.max(1) - 1).unwrap_or(usize::MAX);
    match PAUSES.get(at) {
        Some(pause) => Verdict::Again(((*pause as f64 * (0.5 + draw)) as Millis).max(asked)),
        None => Verdict::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_decides_what_becomes_of_a_delivery() {
        let again = Verdict::Again;
        // answer, attempts made, draw -> verdict
        let table = [
            (Reply::Status(200, None), 1, 0.0, Verdict::Delivered),
            (Reply::Status(204, None), 9, 0.0, Verdict::Delivered),
            (Reply::Status(410, None), 1, 0.0, Verdict::Dead),
            (Reply::Status(500, None), 1, 0.5, again(5 * SECOND)),
            (Reply::Status(301, None), 1, 0.0, again(2_500)),
            (Reply::Status(404, None), 2, 0.5, again(30 * SECOND)),
            (Reply::None, 3, 0.999, again(179_880)),
            (Reply::Status(429, Some(MINUTE)), 1, 0.5, again(MINUTE)),
            (Reply::Status(503, Some(SECOND)), 1, 0.5, again(5 * SECOND)),
            (Reply::Status(503, Some(48 * HOUR)), 1, 0.5, again(HOUR)),
            (Reply::None, 10, 0.5, again(48 * HOUR)),
            (Reply::None, 11, 0.5, Verdict::Dead),
            (Reply::None, u32::MAX, 0.5, Verdict::Dead),
            (Reply::None, 0, 0.5, again(5 * SECOND)),
        ];
        for (answer, attempts, draw, wanted) in table {
            assert_eq!(judge(answer, attempts, draw), wanted, "{answer:?} after {attempts}");
        }
    }
}
