//! A restored copy starts nothing by itself.

use crate::house::House;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A receiver of webhooks that counts them.
fn receiver() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut bytes = [0; 4_096];
            if connection.read(&mut bytes).is_ok_and(|read| read > 0) {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = connection
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        }
    });
    (port, count)
}

fn restore(house: &House, backup: &Path, more: &[&str]) -> Output {
    house.cli(&[&["restore", backup.to_str().unwrap()][..], more].concat())
}

fn paused(house: &House) {
    let ready = house.must("GET", "/readyz", None);
    assert_eq!(ready, json!({"status": "paused", "reasons": ["paused"]}));
    for id in ["ran", "waited"] {
        let view = house.must("GET", &format!("/v1/executions/{id}"), None);
        assert_eq!(
            (&view["status"], &view["wait"]["reason"]),
            (&json!("pending"), &json!("paused")),
            "{view}"
        );
        assert!(view["wait"]["text"].as_str().unwrap().contains("enginehouse resume"), "{view}");
    }
    let engine = house.must("GET", "/v1/engines/demo", None);
    assert_eq!((&engine["paused"], &engine["running"]), (&json!(true), &json!(0)), "{engine}");
    let doctor: Value = serde_json::from_slice(&house.cli(&["doctor", "--json"]).stdout).unwrap();
    let found =
        doctor["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "pause").cloned();
    assert_eq!(found.unwrap_or_default()["verdict"], "warning", "{doctor}");
}

#[test]
fn a_restored_copy_works_once_it_is_told_to() {
    let (port, delivered) = receiver();
    let hook = format!(
        "[webhooks.hook]\nurl = \"http://127.0.0.1:{port}/\"\nsecret = {{ file = \"hook.secret\" }}\n\
         allow_private = true\nevents = [\"execution_cancelled\", \"execution_completed\"]\n"
    );
    let original = House::start("");
    let submit = |house: &House, id: &str, query: &str, parameters: Value| {
        let request = json!({"id": id, "engine": "demo", "workflowId": "w", "concurrencyKey": "one at a time",
            "parameters": parameters});
        house.must("POST", &format!("/v1/executions{query}"), Some(&request))
    };
    submit(&original, "ran", "", json!({"sleepMs": 1_500}));
    original.until("ran", |view| view["status"] == "running");
    submit(&original, "waited", "", json!({}));
    let backup = original.dir.path().join("backup.sqlite");
    let taken = original.cli(&["backup", backup.to_str().unwrap()]);
    assert!(taken.status.success(), "{}", err(&taken));
    let seal = std::fs::read_to_string(original.data().join("seal-key.path")).unwrap();

    let mut copy = House::prepare(&hook);
    copy.key = original.key.clone();
    let secret = format!("whsec_{}", "A".repeat(43) + "=");
    std::fs::write(copy.dir.path().join("hook.secret"), secret).unwrap();
    let wrong = copy.dir.path().join("wrong.key");
    std::fs::write(&wrong, "0".repeat(64)).unwrap();
    let refused = restore(&copy, &backup, &["--seal-key-file", wrong.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
    assert!(!copy.data().join("enginehouse.sqlite").exists(), "nothing was put there");
    let unknown = restore(&copy, &backup, &[]);
    assert!(unknown.status.success(), "{}", err(&unknown));
    let words = err(&unknown);
    assert!(out(&unknown).contains("paused") && words.contains("enginehouse resume --data"), "{words}");
    assert!(words.contains("with an admin key"), "{words}");
    std::fs::write(copy.data().join("admin.key"), &copy.key).unwrap();
    assert!(words.contains("opens with the seal key") && words.contains("storage.seal_key_file"), "{words}");
    let known = restore(&copy, &backup, &["--replace", "--json", "--seal-key-file", seal.trim()]);
    let told: Value = serde_json::from_slice(&known.stdout).unwrap();
    assert_eq!((&told["paused"], &told["sealKeyFile"]), (&json!(true), &json!(seal.trim())));
    assert!(words.contains(told["sealKey"].as_str().unwrap()), "{told}: {words}");

    copy.launch();
    let view = submit(&copy, "new", "?wait=500ms", json!({}));
    assert_eq!((&view["status"], &view["attempt"]), (&json!("pending"), &json!(0)), "{view}");
    submit(&copy, "dropped", "", json!({}));
    copy.must("POST", "/v1/executions/dropped/cancel", None);
    paused(&copy);
    copy.kill();
    copy.launch();
    paused(&copy);
    assert_eq!(delivered.load(Ordering::SeqCst), 0, "nobody is told");

    assert!(out(&copy.cli(&["resume"])).starts_with("resumed"));
    for id in ["ran", "waited", "new"] {
        assert_eq!(copy.ended(id)["status"], "completed", "{id}");
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while delivered.load(Ordering::SeqCst) < 4 {
        assert!(Instant::now() < deadline, "{} were told", delivered.load(Ordering::SeqCst));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(out(&copy.cli(&["resume"])).trim(), "it was not paused");
    copy.kill();
    copy.launch();
    assert_eq!(copy.must("GET", "/readyz", None)["status"], "ok");
    assert_eq!(submit(&copy, "later", "?wait=20s", json!({}))["status"], "completed");
    copy.stop();
    original.stop();
}
