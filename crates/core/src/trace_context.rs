//! Whose trace an execution belongs to: W3C Trace Context (<https://www.w3.org/TR/trace-context/>, `traceparent` of version
//! 00).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The trace that an execution belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub trace: u128,
    /// The caller's span, under which the execution hangs; `None` when the trace began with the execution.
    pub parent: Option<u64>,
    /// Whether its spans are exported, here and by anyone who is told of it.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. Fields behind those of version 00 are accepted and ignored, as the standard asks; `None`
    /// when it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<TraceContext> {
        let (trace, parent, sampled) = fields(text)?;
        (parent != 0).then_some(TraceContext { trace, parent: Some(parent), sampled })
    }

    /// The `traceparent` that names `span` as the parent of what follows.
    #[must_use]
    pub fn traceparent(&self, span: u64) -> String {
        format!("00-{:032x}-{span:016x}-{:02x}", self.trace, u8::from(self.sampled))
    }
}

/// Trace, parent (0: none, which only the stored form may have) and whether it is sampled.
fn fields(text: &str) -> Option<(u128, u64, bool)> {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !known || !hex(trace, 32) || !hex(parent, 16) || !hex(flags, 2) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, u64::from_str_radix(parent, 16).ok()?, flags & 1 == 1))
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent(self.parent.unwrap_or(0)))
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<TraceContext, D::Error> {
        let text = String::deserialize(from)?;
        let (trace, parent, sampled) =
            fields(&text).ok_or_else(|| serde::de::Error::custom("not a trace context"))?;
        Ok(TraceContext { trace, parent: (parent != 0).then_some(parent), sampled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let good =
            |version: &str, flags: &str, more: &str| format!("{version}-{TRACE}-{PARENT}-{flags}{more}");
        let zeros = |n: usize| "0".repeat(n);
        // text, sampled: `None` is not one
        let table = [
            (good("00", "01", ""), Some(true)),
            (good("00", "00", ""), Some(false)),
            (good("00", "03", ""), Some(true)),
            (good("00", "02", ""), Some(false)),
            (good("00", "01", "-more"), None),
            (good("cc", "01", "-more"), Some(true)),
            (good("ff", "01", ""), None),
            (good("0", "01", ""), None),
            (good("00", "1", ""), None),
            (good("00", "0g", ""), None),
            (good("00", "01", "").to_uppercase(), None),
            (format!("00-{}-{PARENT}-01", zeros(32)), None),
            (format!("00-{TRACE}-{}-01", zeros(16)), None),
            (format!("00-{TRACE}-{PARENT}"), None),
            (String::new(), None),
            ("00-é-é-01".to_owned(), None),
        ];
        for (text, sampled) in table {
            let context = TraceContext::parse(&text);
            assert_eq!(context.map(|c| c.sampled), sampled, "{text:?}");
            if let Some(context) = context {
                let told = context.traceparent(7);
                assert_eq!(told, format!("00-{TRACE}-{:016x}-0{}", 7, u8::from(context.sampled)));
            }
        }
    }

    proptest! {
        #[test]
        fn a_context_is_stored_whole_and_any_text_is_survived(trace in 1..u128::MAX, parent: u64, sampled: bool, text: String) {
            let context = TraceContext { trace, parent: Some(parent).filter(|p| *p != 0), sampled };
            let stored = serde_json::to_string(&context).unwrap();
            prop_assert_eq!(serde_json::from_str::<TraceContext>(&stored).unwrap(), context);
            let _ = TraceContext::parse(&text);
            prop_assert!(serde_json::from_str::<TraceContext>(&serde_json::to_string(&text).unwrap()).is_err());
        }
    }
}
