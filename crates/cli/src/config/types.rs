//! The types a configuration value can have: each knows how it is written, which values it takes, and how to say so.

use enginehouse_api::Span as ApiSpan;
use enginehouse_core::time::{DAY, Millis};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What a place in the configuration may hold.
#[derive(Clone)]
pub(super) enum Shape {
    /// One value. `kind` says in words what it takes.
    Leaf { kind: String, check: fn(&Value) -> Result<(), String> },
    /// A table with these keys.
    Section(Vec<Key>),
    /// A table with free names; what is below each is alike.
    Named(Box<Shape>),
    /// An array of tables with these keys.
    List(Vec<Key>),
    /// A table with free names; what is below each depends on a word that stands there.
    Tagged(Tagged),
}

/// A table whose keys depend on one of their values.
#[derive(Clone, Copy)]
pub(super) struct Tagged {
    /// The key whose value decides.
    pub tag: &'static str,
    /// What such a value is, with its article.
    pub what: &'static str,
    /// The values that there are.
    pub names: &'static [&'static str],
    /// The keys that go with a value; `None`: it is none of them.
    pub keys_of: fn(&str) -> Option<Vec<Key>>,
}

/// One documented key of a section.
#[derive(Clone)]
pub(super) struct Key {
    /// In snake_case.
    pub name: &'static str,
    /// What it means.
    pub doc: String,
    /// As it would be written; `null` when there is none.
    pub default: Value,
    pub shape: Shape,
}

/// A type that can stand in the configuration.
pub(super) trait Setting: Serialize + DeserializeOwned {
    fn shape() -> Shape;
}

/// A section: a struct made by [`section!`](crate::config::section).
pub(super) trait Section: Setting + Default {
    fn keys() -> Vec<Key>;
}

/// A type that takes one value.
pub(super) trait Leaf: Sized {
    /// In words, what it takes.
    fn kind() -> String;
    /// The value, or what is wrong with it.
    fn parse(value: &Value) -> Result<Self, String>;
}

/// Lets each [`Leaf`] stand in the configuration.
macro_rules! leaves {
    ($($type:ty $(where [$($of:tt)*])?),* $(,)?) => { $(
        impl $(<$($of)*>)? $crate::config::types::Setting for $type {
            fn shape() -> $crate::config::types::Shape {
                use $crate::config::types::Leaf;
                $crate::config::types::Shape::Leaf {
                    kind: <$type>::kind(),
                    check: |value| <$type>::parse(value).map(drop),
                }
            }
        }

        impl<'de $(, $($of)*)?> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(from)?;
                <$type as $crate::config::types::Leaf>::parse(&value).map_err(serde::de::Error::custom)
            }
        }
    )* };
}
pub(crate) use leaves;

impl<T: Setting> Setting for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }
}

impl<T: Setting> Setting for BTreeMap<String, T> {
    fn shape() -> Shape {
        Shape::Named(Box::new(T::shape()))
    }
}

impl<T: Section> Setting for Vec<T> {
    fn shape() -> Shape {
        Shape::List(T::keys())
    }
}

/// Declares sections: each field with its default and meaning is at once the type that is read and the row of
/// docs/CONFIG.md, so that no key can be read without being documented.
macro_rules! section {
    ($($(#[doc = $about:literal])* pub struct $name:ident {
        $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr;)*
    })*) => { $(
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[doc = $doc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self { $name { $($field: $default,)* } }
        }

        impl $crate::config::types::Setting for $name {
            fn shape() -> $crate::config::types::Shape {
                $crate::config::types::Shape::Section(<$name as $crate::config::types::Section>::keys())
            }
        }

        impl $crate::config::types::Section for $name {
            fn keys() -> Vec<$crate::config::types::Key> {
                let defaults = $name::default();
                vec![$($crate::config::types::Key {
                    name: stringify!($field).trim_start_matches("r#"),
                    doc: concat!($($doc),*).trim().to_owned(),
                    default: serde_json::to_value(&defaults.$field).unwrap_or_default(),
                    shape: <$type as $crate::config::types::Setting>::shape(),
                }),*]
            }
        }
    )* };
}
pub(crate) use section;

/// A whole number in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// The number where `MAX` fits 32 bits; saturates otherwise.
    #[must_use]
    pub fn get32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Leaf for Whole<MIN, MAX> {
    fn kind() -> String {
        format!("whole number, {MIN} to {MAX}")
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_u64() {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Whole(number)),
            _ => Err(format!("must be a whole number from {MIN} to {MAX}, not {}", brief(value))),
        }
    }
}

/// Declares numbers of a range, each with the words that say so.
macro_rules! numbers {
    ($($(#[doc = $about:literal])* pub struct $name:ident($words:literal, $holds:expr);)*) => { $(
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub f64);

        impl Leaf for $name {
            fn kind() -> String { concat!("number ", $words).to_owned() }

            fn parse(value: &Value) -> Result<Self, String> {
                let holds: fn(&f64) -> bool = $holds;
                let wrong = || format!(concat!("must be a number ", $words, ", not {}"), brief(value));
                value.as_f64().filter(holds).map($name).ok_or_else(wrong)
            }
        }

        leaves!($name);
    )* };
}

numbers! {
    /// A part of a whole.
    pub struct Fraction("above 0, at most 1", |n| *n > 0.0 && *n <= 1.0);
    /// A part that may be nothing or the whole.
    pub struct Ratio("from 0 to 1", |n| (0.0..=1.0).contains(n));
    /// A part that may be nothing, and is not the whole.
    pub struct Part("from 0 to less than 1", |n| (0.0..1.0).contains(n));
    /// Percent of the time.
    pub struct Percent("above 0, at most 100", |n| *n > 0.0 && *n <= 100.0);
    /// A factor that does not shrink.
    pub struct Factor("from 1 to 100", |n| (1.0..=100.0).contains(n));
    /// A share relative to others.
    pub struct Weight("above 0, at most 1000", |n| *n > 0.0 && *n <= 1000.0);
    /// What something is worth.
    pub struct Price("from 0 to 1000000", |n| (0.0..=1e6).contains(n));
}

/// A duration from `MIN` to `MAX` milliseconds, written as integer milliseconds or as text with units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<const MIN: Millis, const MAX: Millis>(pub Millis);

impl<const MIN: Millis, const MAX: Millis> Span<MIN, MAX> {
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const MIN: Millis, const MAX: Millis> Leaf for Span<MIN, MAX> {
    fn kind() -> String {
        format!("duration, {} to {}", span_text(MIN), span_text(MAX))
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse::<ApiSpan>().ok().map(|span| span.0),
            _ => None,
        };
        match parsed {
            Some(ms) if (MIN..=MAX).contains(&ms) => Ok(Span(ms)),
            Some(_) => {
                let (least, most) = (span_text(MIN), span_text(MAX));
                Err(format!("must be a duration from {least} to {most}, not {}", brief(value)))
            }
            None => Err(format!(
                "must be a duration (whole milliseconds, or text like \"30s\", \"5m\", \"2h\", \"7d\"), not {}",
                brief(value)
            )),
        }
    }
}

impl<const MIN: Millis, const MAX: Millis> Serialize for Span<MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&span_text(self.0))
    }
}

/// A duration up to a year.
pub(super) type UpToAYear = Span<1, { 366 * DAY }>;
/// A duration up to a day.
pub(super) type UpToADay = Span<1, DAY>;
/// A duration that may be nothing, up to a day.
pub(super) type MaybeNone = Span<0, DAY>;

/// The shortest text of a duration: the largest unit that divides it.
#[must_use]
pub(super) fn span_text(ms: Millis) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(size, _)| ms > 0 && ms.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", ms / size),
        None => format!("{ms}ms"),
    }
}

/// A rate such as `50/s`, kept as starts per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub count: u32,
    /// One of `s`, `m`, `h`.
    pub per: char,
}

impl Leaf for Rate {
    fn kind() -> String {
        "rate such as \"50/s\", \"300/m\", \"1000/h\"".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| {
            let (count, per) = text.split_once('/')?;
            let per = match per.trim() {
                "s" => 's',
                "m" => 'm',
                "h" => 'h',
                _ => return None,
            };
            Some(Rate { count: count.trim().parse().ok().filter(|count| *count > 0)?, per })
        });
        parsed.ok_or_else(|| {
            format!("must be a rate such as \"50/s\", \"300/m\" or \"1000/h\", not {}", brief(value))
        })
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{}/{}", self.count, self.per))
    }
}

/// Text of 1 to 4,096 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Text(pub String);

impl Leaf for Text {
    fn kind() -> String {
        "text".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if (1..=4_096).contains(&text.len()) => Ok(Text(text.clone())),
            Value::String(_) => Err("must be text of 1 to 4096 bytes".to_owned()),
            other => Err(format!("must be text, not {}", brief(other))),
        }
    }
}

/// Several texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Texts(pub Vec<String>);

impl Leaf for Texts {
    fn kind() -> String {
        "list of texts".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let wrong = |_| format!("must be a list of texts, not {}", brief(value));
        Vec::<String>::deserialize(value).map(Texts).map_err(wrong)
    }
}

/// True or false.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Flag(pub bool);

impl Leaf for Flag {
    fn kind() -> String {
        "true or false".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let wrong = || format!("must be true or false, not {}", brief(value));
        value.as_bool().map(Flag).ok_or_else(wrong)
    }
}

/// A path; `~/` stands for the home directory. Relative paths are relative to the working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FilePath(pub PathBuf);

impl FilePath {
    /// The path with `~/` replaced.
    #[must_use]
    pub fn expanded(&self) -> PathBuf {
        match (self.0.strip_prefix("~"), std::env::home_dir()) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => self.0.clone(),
        }
    }
}

impl Leaf for FilePath {
    fn kind() -> String {
        "path".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        Text::parse(value).map(|text| FilePath(PathBuf::from(text.0)))
    }
}

leaves!(
    Whole<MIN, MAX> where [const MIN: u64, const MAX: u64],
    Span<MIN, MAX> where [const MIN: Millis, const MAX: Millis],
    Rate, Text, Texts, Flag, FilePath,
);

/// A value for an error text: short, and never more than a glimpse of what was written.
#[must_use]
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        Value::String(text) if text.chars().count() > 40 => {
            format!("\"{}…\"", text.chars().take(40).collect::<String>())
        }
        other => other.to_string(),
    }
}

/// Declares a closed choice of words.
macro_rules! choice {
    ($($(#[doc = $about:literal])* pub enum $name:ident { $($(#[doc = $doc:literal])* $variant:ident $word:literal,)* })*) => { $(
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }

        impl $name {
            /// The word of the configuration.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $($name::$variant => $word,)* } }
        }

        impl $crate::config::types::Leaf for $name {
            fn kind() -> String { [$(concat!("`", $word, "`")),*].join(", ") }

            fn parse(value: &serde_json::Value) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($word) => Ok($name::$variant),)*
                    _ => Err(format!(
                        "must be one of {}, not {}", [$($word),*].join(", "), $crate::config::types::brief(value)
                    )),
                }
            }
        }

        $crate::config::types::leaves!($name);

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> { to.serialize_str(self.as_str()) }
        }
    )* };
}
pub(crate) use choice;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_with_the_largest_unit_that_divides_them() {
        let rows = [
            (0, "0ms"),
            (1, "1ms"),
            (1_500, "1500ms"),
            (30_000, "30s"),
            (60_000, "1m"),
            (86_400_000, "1d"),
            (90_000, "90s"),
        ];
        for (ms, text) in rows {
            assert_eq!(span_text(ms), text);
            assert_eq!(text.parse::<ApiSpan>(), Ok(ApiSpan(ms)));
        }
    }
}
