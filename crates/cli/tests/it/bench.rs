//! The load generator: what it says of a service agrees with what the service says of itself.

use crate::house::House;
use serde_json::{Value, json};

fn bench(house: &House, args: &[&str]) -> Value {
    let said = house.cli(&[&["bench", "--json", "--type", "demo"], args].concat());
    assert!(said.status.success(), "{said:?}");
    serde_json::from_slice(&said.stdout).unwrap()
}

fn total(house: &House) -> u64 {
    house.must("GET", "/v1/metrics", None)["successfulExecutions"].as_u64().unwrap()
}

#[test]
fn each_way_of_asking_counts_what_the_service_counts() {
    let house = House::start("");
    bench(&house, &["--executions", "9", "--priority", "HIGH:1", "--priority", "LOW:2"]);
    let listed = house.must("GET", "/v1/executions", None);
    let highs =
        listed["executions"].as_array().unwrap().iter().filter(|one| one["priority"] == "HIGH").count();
    assert_eq!((highs, total(&house)), (3, 9));
    let closed = bench(&house, &["--executions", "291", "--connections", "8"]);
    assert_eq!(
        (&closed["submitted"], &closed["ended"], &closed["failed"]),
        (&json!(291), &json!(291), &json!(0))
    );
    assert_eq!(
        (&closed["calls"]["count"], &closed["endToEnd"], total(&house)),
        (&json!(291), &json!(false), 300)
    );
    let batches = bench(&house, &["--executions", "250", "--batch", "100", "--connections", "2"]);
    assert_eq!(
        (&batches["submitted"], &batches["ended"], &batches["calls"]["count"]),
        (&json!(250), &json!(250), &json!(3))
    );
    let open = bench(&house, &["--rate", "200", "--duration", "500ms", "--wait", "--work", "5ms"]);
    assert_eq!(
        (&open["submitted"], &open["ended"], &open["endToEnd"]),
        (&json!(100), &json!(100), &json!(true))
    );
    assert!(open["calls"]["p50"].as_f64().unwrap() >= 5.0, "{open}");
    assert_eq!(total(&house), 650);
    house.stop();
}

#[test]
fn what_is_refused_is_counted_by_its_code_and_figures_compare() {
    let house = House::start("");
    let file = house.data().join("figures.json");
    let file = file.to_str().unwrap();
    let refused = house.cli(&["bench", "--json", "--engine", "nobody", "--executions", "3"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let refused: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused["errors"], json!({"unknown_engine": 3}), "{refused}");
    bench(&house, &["--executions", "20", "--save", file]);
    let both = bench(&house, &["--executions", "30", "--compare", file]);
    assert_eq!((&both["before"]["submitted"], &both["now"]["submitted"]), (&json!(20), &json!(30)));
    let args = ["bench", "--type", "demo", "--executions", "10", "--compare", file, "--percentiles"];
    let text = String::from_utf8(house.cli(&args).stdout).unwrap();
    for part in ["NOW / BEFORE", "executions per second", "1/(1-PERCENTILE)"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for (args, part) in [
        (&["bench"][..], "name an engine"),
        (&["bench", "--type", "demo", "--rate", "0"], "--rate"),
        (&["bench", "--type", "demo", "--priority", "URGENT"], "URGENT"),
        (&["bench", "--type", "demo", "--compare", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let said = house.cli(args);
        assert_eq!(said.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains(part), "{args:?}: {said:?}");
    }
    let nobody = house.cli(&["bench", "--type", "demo", "--url", "http://127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(6), "{nobody:?}");
    house.stop();
}

#[test]
fn a_key_that_may_only_submit_measures_submits() {
    let house = House::start("");
    let key = house.must("POST", "/v1/keys", Some(&json!({"name": "submits", "scopes": ["submit"]})));
    let key = key["secret"].as_str().unwrap();
    let file = house.data().join("bench.key");
    let with = |key: &str, args: &[&str]| {
        std::fs::write(&file, key).unwrap();
        let file = file.to_str().unwrap();
        let usual = ["bench", "--json", "--type", "demo", "--executions", "20", "--key-file", file];
        house.cli(&[&usual, args].concat())
    };
    let refused = with(key, &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("forbidden"), "{refused:?}");
    let said = with(key, &["--submits-only"]);
    assert!(said.status.success(), "{said:?}");
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["submitted"], &said["submitsOnly"]), (&json!(20), &json!(true)), "{said}");
    let wrong = with("wrong", &["--submits-only"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    house.stop();
}

#[test]
fn a_bench_in_which_everything_is_refused_stops_by_itself() {
    let house = House::start("");
    let said = house.cli(&["bench", "--json", "--engine", "nobody", "--duration", "1h"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert!(said["errors"]["unknown_engine"].as_u64().is_some_and(|count| count >= 100), "{said}");
    house.stop();
}
