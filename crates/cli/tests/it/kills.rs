//! kill -9 at random moments under load: what was acknowledged is there, and ends once. `ROUNDS=50` for a long run.

use crate::house::{House, call};
use crate::ledger::{Findings, History};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CLIENTS: u64 = 3;

struct Load {
    stop: AtomicBool,
    serial: AtomicU64,
    acknowledged: Mutex<Vec<String>>,
}

/// Mixed work: short and long, failing, retried, delayed, by several users, with keys.
fn work(number: u64) -> Value {
    let mut request = json!({
        "id": format!("load-{number}"),
        "engineType": "demo",
        "workflowId": "w",
        "priority": 1 + number % 4,
        "parameters": {"sleepMs": (number * 37) % 150, "resultBytes": (number % 5) * 700},
    });
    match number % 7 {
        0 => request["parameters"]["failTimes"] = json!(99),
        1 => {
            request["parameters"]["failTimes"] = json!(1);
            request["parameters"]["failKind"] = json!("unavailable");
            request["retry"] = json!({"delay": 20, "maxRetries": 5});
        }
        2 => request["userId"] = json!(format!("u{}", number % 3)),
        3 => request["concurrencyKey"] = json!(format!("k{}", number % 3)),
        4 => request["atMostOnce"] = json!(true),
        _ => {}
    }
    request
}

fn client(load: &Load, to: SocketAddr, key: &str) {
    while !load.stop.load(Ordering::SeqCst) {
        let number = load.serial.fetch_add(1, Ordering::SeqCst);
        let answer = call(to, key, "POST", "/v1/executions", Some(&work(number)));
        if let Ok(answer) = answer
            && (200..300).contains(&answer.status)
        {
            load.acknowledged.lock().unwrap().push(format!("load-{number}"));
        }
    }
}

/// A moment that differs from round to round without a clock's help.
fn moment(round: u64) -> Duration {
    let mixed = (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    Duration::from_millis(30 + mixed % 400)
}

#[test]
fn nothing_acknowledged_is_lost_and_each_ends_once() {
    let rounds: u64 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut house = House::start("");
    let load = Arc::new(Load {
        stop: AtomicBool::new(false),
        serial: AtomicU64::new(0),
        acknowledged: Mutex::default(),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (load, to, key) = (load.clone(), house.address, house.key.clone());
            std::thread::spawn(move || client(&load, to, &key))
        })
        .collect();
    for round in 0..rounds {
        // The moment of the kill is what is random here; nothing is waited for.
        std::thread::sleep(moment(round));
        house.kill();
        house.launch();
    }
    load.stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let acknowledged = load.acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() as u64 > rounds, "hardly anything was submitted");
    let mut statuses: BTreeSet<String> = BTreeSet::new();
    let mut findings = Findings::default();
    for id in &acknowledged {
        let view = house.ended(id);
        statuses.insert(view["status"].as_str().unwrap().to_owned());
        History::read(&house, id, &mut findings);
    }
    assert!(findings.is_empty(), "{findings:#?}");
    println!("{} kills, {} acknowledged, ends {statuses:?}", rounds, acknowledged.len());
    house.stop();
}
