//! The scenario of a simulation: the world around the policy, as JSON.

use super::super::Failure;
use super::super::connect;
use enginehouse_core::lab::{EngineChange, EngineShape};
use enginehouse_core::time::{Millis, SECOND};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The keys that mean something, and those that tell people where a scenario comes from.
const KEYS: [&str; 10] = [
    "horizon_s",
    "tick_s",
    "between_ticks",
    "slo_wait_s",
    "min_workers",
    "max_workers",
    "slots",
    "startup_s",
    "engines",
    "engine_events",
];
const LABELS: [&str; 3] = ["name", "seed", "note"];

/// What a scenario may say; what it leaves out comes from the configuration and the trace.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    horizon_s: Option<f64>,
    tick_s: Option<f64>,
    between_ticks: bool,
    slo_wait_s: Option<f64>,
    min_workers: Option<u64>,
    max_workers: Option<u64>,
    slots: Option<u64>,
    startup_s: StartUps,
    engines: Option<BTreeMap<String, WrittenEngine>>,
    engine_events: Vec<WrittenEvent>,
}

/// Start-up times that the scenario is meant for. Only one of them says what to take; several are there to be tried.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum StartUps {
    One(f64),
    Several(Vec<f64>),
}

impl Default for StartUps {
    fn default() -> Self {
        StartUps::Several(Vec::new())
    }
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenEngine {
    knee: Option<f64>,
    gamma: Option<f64>,
    speed: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEvent {
    t: f64,
    engine: String,
    knee: Option<f64>,
    gamma: Option<f64>,
    speed: Option<f64>,
}

/// A scenario as it was read.
#[derive(Debug, Default)]
pub(super) struct World {
    /// `None`: until the last arrival.
    pub(super) horizon: Option<Millis>,
    /// The policy is also asked between ticks.
    pub(super) between_ticks: bool,
    /// `None`: the configured guess.
    pub(super) startup: Option<Millis>,
    /// Keys of the configuration and their values.
    pub(super) keys: Vec<(&'static str, Value)>,
    /// `None`: those of the trace, all of them well.
    pub(super) engines: Option<BTreeMap<Arc<str>, EngineShape>>,
    pub(super) changes: Vec<EngineChange>,
}

/// Reads a scenario; the error names the place.
pub(super) fn read(path: &Path) -> Result<World, Failure> {
    let text = connect::read(path)?;
    let fault = |message: String| Failure::usage(format!("{}: {message}", path.display()));
    let value: Value = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    if let Some(key) = unknown(&value) {
        return Err(fault(format!("{key:?} is not known; a scenario has {}", KEYS.join(", "))));
    }
    let written: Written = serde_path_to_error::deserialize(value)
        .map_err(|error| fault(format!("{}: {}", error.path(), error.inner())))?;
    world(written).map_err(fault)
}

/// The first key at the top that means nothing.
fn unknown(value: &Value) -> Option<&String> {
    value.as_object()?.keys().find(|key| !KEYS.contains(&key.as_str()) && !LABELS.contains(&key.as_str()))
}

fn world(written: Written) -> Result<World, String> {
    let startup = match &written.startup_s {
        StartUps::One(span) => Some(*span),
        StartUps::Several(spans) => <[f64; 1]>::try_from(spans.as_slice()).ok().map(|[span]| span),
    };
    let mut world = World {
        horizon: written.horizon_s.map(|span| millis("horizon_s", span)).transpose()?,
        startup: startup.map(|span| millis("startup_s", span)).transpose()?,
        between_ticks: written.between_ticks,
        ..World::default()
    };
    let spans = [
        ("scaling.tick_interval", "tick_s", written.tick_s),
        ("scaling.slo_wait", "slo_wait_s", written.slo_wait_s),
    ];
    for (key, name, span) in spans {
        if let Some(span) = span {
            world.keys.push((key, Value::from(millis(name, span)?)));
        }
    }
    let numbers = [
        ("scaling.min_workers", written.min_workers),
        ("scaling.max_workers", written.max_workers),
        ("scaling.worker_capacity", written.slots),
    ];
    world.keys.extend(numbers.into_iter().filter_map(|(key, number)| Some((key, Value::from(number?)))));
    let shape = |engine: WrittenEngine| {
        let well = EngineShape::default();
        EngineShape {
            knee: engine.knee.unwrap_or(well.knee),
            gamma: engine.gamma.unwrap_or(well.gamma),
            speed: engine.speed.unwrap_or(well.speed),
        }
    };
    world.engines = written
        .engines
        .map(|engines| engines.into_iter().map(|(name, engine)| (Arc::from(name), shape(engine))).collect());
    for event in written.engine_events {
        world.changes.push(EngineChange {
            at: millis("engine_events.t", event.t)?,
            engine: Arc::from(event.engine),
            knee: event.knee,
            gamma: event.gamma,
            speed: event.speed,
        });
    }
    Ok(world)
}

/// Seconds as whole milliseconds.
pub(super) fn millis(name: &str, seconds: f64) -> Result<Millis, String> {
    if !(0.0..=1e9).contains(&seconds) {
        return Err(format!("{name} must be a number of seconds from 0 on, not {seconds}"));
    }
    Ok((seconds * SECOND as f64).round() as Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<World, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t.json");
        std::fs::write(&path, text).expect("it is written");
        read(&path).map_err(|failure| failure.message)
    }

    #[test]
    fn what_is_written_becomes_keys_of_the_configuration() {
        let world = read_text(
            r#"{"name": "x", "tick_s": 0.5, "slots": 4, "engines": {"a": {"knee": 7}},
                "engine_events": [{"t": 1164.8, "engine": "a", "speed": 0.5}]}"#,
        )
        .expect("it is a scenario");
        assert_eq!(
            world.keys,
            [("scaling.tick_interval", Value::from(500)), ("scaling.worker_capacity", Value::from(4))]
        );
        let shape = world.engines.expect("engines are named")["a"];
        assert_eq!((shape.knee, shape.gamma, shape.speed), (7.0, 0.5, 1.0));
        assert_eq!((world.changes[0].at, world.changes[0].speed), (1_164_800, Some(0.5)));
        assert!(read_text("{}").expect("it may be empty").engines.is_none());
    }

    #[test]
    fn a_fault_names_its_place() {
        let table = [
            (r#"{"tick_s": "x"}"#, "tick_s: invalid type"),
            (r#"{"tick_s": -1}"#, "tick_s must be a number of seconds"),
            (r#"{"engines": {"a": {"knie": 7}}}"#, "engines.a"),
            (r#"{"horizon": 60}"#, "\"horizon\" is not known"),
            (r#"{"engine_events": [{"t": 1}]}"#, "engine_events[0]: missing field `engine`"),
            ("{", "EOF"),
        ];
        for (text, wanted) in table {
            let found = read_text(text).expect_err(text);
            assert!(found.contains(wanted) && found.contains("t.json"), "{text}: {found}");
        }
    }
}
