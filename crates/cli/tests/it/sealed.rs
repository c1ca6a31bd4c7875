//! At rest: nothing a caller or an engine said can be read in any file or log line.

use crate::house::House;
use crate::http;
use serde_json::json;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CANARY: &str = "canary-7f3a9c51";

/// Files below a directory that hold the canary.
fn leaks(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            leaks(&path, found);
        } else if std::fs::read(&path)
            .unwrap()
            .windows(CANARY.len())
            .any(|window| window == CANARY.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
}

/// Takes whatever is sent to it, answers nothing, and keeps it.
fn listener() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let all = heard.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let all = all.clone();
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut part) {
                    all.lock().unwrap().extend_from_slice(&part[..count]);
                }
            });
        }
    });
    (address, heard)
}

/// Waits until something was sent there; all of it.
fn heard_by(heard: &Mutex<Vec<u8>>, what: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    while heard.lock().unwrap().len() < 500 {
        assert!(Instant::now() < deadline, "nothing was sent to the {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    String::from_utf8_lossy(&heard.lock().unwrap()).into_owned()
}

#[test]
fn nothing_that_was_said_can_be_read_at_rest() {
    let ((traces, traced), (hooks, hooked)) = (listener(), listener());
    let mut house = House::prepare(&format!(
        "[log]\nlevel = \"trace\"\n\n[engines.shell]\ntype = \"command\"\nargv = [\"/bin/sh\", \"-c\", \"tee /dev/stderr; exit 1\"]\n\
         [tracing.exporters.all]\nurl = \"http://{traces}\"\n\
         [callbacks]\nsecret = {{ env = \"HOOK_SECRET\" }}\n\
         [webhooks.all]\nurl = \"http://{hooks}\"\nallow_private = true\nsecret = {{ env = \"HOOK_SECRET\" }}\n\
         events = [\"execution_submitted\", \"execution_completed\", \"execution_failed\"]\n"
    ));
    let mut serve = house.serve();
    serve.env("HOOK_SECRET", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    let request = |id: &str, engine: &str, parameters: serde_json::Value| {
        json!({"id": id, "engine": engine, "workflowId": "w", "parameters": parameters, "metadata": {"note": CANARY},
               "concurrencyKey": CANARY, "sessionId": CANARY, "callbackUrl": format!("http://127.0.0.1:9/{CANARY}")})
    };
    // In the parameters, the result, the metadata; then in logs and in the message of a failure.
    house.must("POST", "/v1/executions", Some(&request("ok", "demo", json!({"echo": CANARY}))));
    let parameters = json!({"echo": CANARY, "resultBytes": 300_000});
    house.must("POST", "/v1/executions", Some(&request("large", "demo", parameters)));
    house.must("POST", "/v1/executions", Some(&request("bad", "shell", json!(CANARY))));
    ["ok", "large"].iter().for_each(|id| assert_eq!(house.ended(id)["status"], "completed"));
    assert!(house.ended("bad")["failure"]["message"].as_str().unwrap().contains(CANARY));
    assert_eq!(house.must("GET", "/v1/executions/ok/result", None)["result"]["echo"], CANARY);
    // Anyone who may see that it is there, and not what was said.
    let key = house.must("POST", "/v1/keys", Some(&json!({"name": "eyes", "scopes": ["read", "metrics"]})));
    let bearer = format!("Bearer {}", key["secret"].as_str().unwrap());
    for path in [
        "/metrics",
        "/v1/webhooks/deliveries",
        "/v1/executions",
        "/v1/executions/bad",
        "/v1/executions/bad/attempts",
        "/v1/queue",
        "/v1/storage",
    ] {
        let headers = [("authorization", bearer.as_str())];
        let answer = http::send(house.address, &http::request("GET", path, &headers, b"")).unwrap();
        assert!(answer.status == 200 && !answer.text().contains(CANARY), "{path}: {}", answer.text());
    }
    let mut events = crate::house::program();
    events
        .args(["events", "--json", "--after", "oldest", "--count", "12", "--url"])
        .arg(format!("http://{}", house.address));
    let said = events.env("ENGINEHOUSE_API_KEY", key["secret"].as_str().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("execution_failed") && !said.contains(CANARY), "{said}");
    for (heard, what) in [(&traced, "receiver of traces"), (&hooked, "receiver of webhooks")] {
        let text = heard_by(heard, what);
        assert!(!text.contains(CANARY), "the {what} heard {text}");
    }
    let backup = house.dir.path().join("backup.file");
    assert!(house.cli(&["backup", backup.to_str().unwrap()]).status.success());
    // A kill leaves the log of the newest commits as it is.
    house.kill();
    let mut found = Vec::new();
    leaks(house.dir.path(), &mut found);
    assert_eq!(found, Vec::<String>::new());
    // And it is all still there for who may read it.
    let mut serve = house.serve();
    serve.env("HOOK_SECRET", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
    for id in ["ok", "large"] {
        let result = house.must("GET", &format!("/v1/executions/{id}/result"), None);
        assert_eq!(result["result"]["echo"], CANARY);
    }
    assert!(house.must("GET", "/v1/executions/bad/logs", None)["logs"].as_str().unwrap().contains(CANARY));
    house.stop();
}

/// The service with a seal key in its environment; several are separated by a line.
fn with_key(house: &House, keys: &[&str]) -> std::process::Command {
    let mut command = house.serve();
    command.env("SEAL_KEY", keys.join("\n"));
    command
}

fn key_of(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

#[test]
fn the_seal_key_comes_from_the_environment_and_can_be_exchanged() {
    let mut house = House::prepare("[storage]\nseal_key_env = \"SEAL_KEY\"\n");
    let (old, new) = (key_of(0x11), key_of(0x22));
    house.spawn(with_key(&house, &[&old]));
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    let request = json!({"id": "one", "engine": "demo", "workflowId": "w", "parameters": {"echo": CANARY}});
    house.must("POST", "/v1/executions", Some(&request));
    house.ended("one");
    house.halt();
    let refused = |house: &House, keys: &[&str]| {
        let output = with_key(house, keys).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    // The first four bytes of the SHA-256 of thirty-two bytes 0x11.
    let said = refused(&house, &[&new]);
    assert!(said.contains("key_missing") && said.contains("02d449a3"), "{said}");
    assert!(!said.contains(&new) && !said.contains(CANARY), "{said}");
    let said = refused(&house, &["0123"]);
    assert!(said.contains("key_unusable") && said.contains("SEAL_KEY") && !said.contains("0123"), "{said}");
    // With both at hand the ring goes over to the first; from then on that one is enough.
    for keys in [&[&*new, &*old][..], &[&*new]] {
        house.spawn(with_key(&house, keys));
        assert!(house.ready().is_none(), "{}", house.said());
        assert_eq!(house.must("GET", "/v1/executions/one/result", None)["result"]["echo"], CANARY);
        house.halt();
    }
    let said = refused(&house, &[&old]);
    assert!(said.contains("key_missing"), "{said}");
    for key in [&old, &new] {
        assert!(!house.said().contains(key.as_str()));
    }
}

#[test]
fn what_was_tampered_with_is_refused_and_named_by_its_key() {
    let mut house = House::start("");
    let ids = [
        "magic",
        "version",
        "compression",
        "nonce",
        "ciphertext",
        "tag",
        "algorithm",
        "row",
        "column",
        "left",
    ];
    for id in ids {
        let request = json!({"id": id, "engine": "demo", "workflowId": "w", "parameters": {"echo": format!("{CANARY} {id}")}});
        house.must("POST", "/v1/executions", Some(&request));
    }
    ids.iter().for_each(|id| assert_eq!(house.ended(id)["status"], "completed"));
    house.halt();
    let store = rusqlite::Connection::open(house.data().join("enginehouse.sqlite")).unwrap();
    let body = |table: &str, id: &str| -> Vec<u8> {
        let sql = format!("SELECT body FROM {table} JOIN execution USING (key) WHERE ext_id = ?");
        store.query_row(&sql, [id], |row| row.get(0)).unwrap()
    };
    let put = |id: &str, body: &[u8]| {
        let sql = "UPDATE output SET body = ? WHERE key = (SELECT key FROM execution WHERE ext_id = ?)";
        assert_eq!(store.execute(sql, rusqlite::params![body, id]).unwrap(), 1);
    };
    let last = body("output", "tag").len() - 1;
    let places = [
        ("magic", 1),
        ("version", 2),
        ("algorithm", 3),
        ("compression", 4),
        ("nonce", 20),
        ("ciphertext", 35),
        ("tag", last),
    ];
    for (id, at) in places {
        let mut bytes = body("output", id);
        bytes[at] ^= 1;
        put(id, &bytes);
    }
    put("row", &body("output", "left"));
    put("column", &body("input", "column"));
    let key: String = body("output", "left")[5..9].iter().map(|byte| format!("{byte:02x}")).collect();
    store.close().unwrap();
    house.launch();
    for id in ids {
        let (status, answer) = house.call("GET", &format!("/v1/executions/{id}/result"), None);
        if id == "left" {
            assert_eq!(answer["result"]["echo"], format!("{CANARY} left"));
            continue;
        }
        let told = answer.to_string();
        assert_eq!((status, &answer["code"]), (500, &json!("payload_damaged")), "{id}: {told}");
        assert!(!told.contains(CANARY), "{id}: {told}");
        let named = !["magic", "version", "algorithm"].contains(&id);
        assert!(!named || told.contains(&key), "{id}: {told}");
    }
    assert!(!house.said().contains(CANARY));
    house.stop();
}

#[test]
fn compression_and_encryption_are_switched_apart_from_each_other() {
    let mut house = House::prepare("");
    let config = house.dir.path().join("enginehouse.toml");
    let long = format!("{CANARY} ").repeat(200);
    let mut made = Vec::new();
    for (at, (compress, encrypt)) in
        [(true, true), (false, true), (true, false), (false, false), (true, true)].into_iter().enumerate()
    {
        let text = format!(
            "[engines.demo]\ntype = \"demo\"\n[storage]\ncompression_enabled = {compress}\nencryption_enabled = {encrypt}\n"
        );
        std::fs::write(&config, text).unwrap();
        house.launch();
        house.read_key();
        let id = format!("e{at}");
        let request = json!({"id": id, "engine": "demo", "workflowId": "w", "parameters": {"echo": long}});
        house.must("POST", "/v1/executions", Some(&request));
        house.ended(&id);
        made.push(id);
        // Whatever was switched before stays readable.
        for id in &made {
            let result = house.must("GET", &format!("/v1/executions/{id}/result"), None);
            assert_eq!(result["result"]["echo"], long, "{id}");
        }
        house.halt();
        let mut found = Vec::new();
        leaks(&house.data(), &mut found);
        assert_eq!(found.is_empty(), at < 2, "{at}: {found:?}");
        let store = rusqlite::Connection::open(house.data().join("enginehouse.sqlite")).unwrap();
        let sql = "SELECT length(output.body) FROM output ORDER BY key DESC LIMIT 1";
        let length: u32 = store.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!((length as usize) < long.len() / 2, compress, "{at}: {length} bytes");
    }
}

/// Submits until told to stop; the ids whose submits were answered.
fn load(house: &House, round: u64, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let id = format!("r{round}-{n}");
        let request = json!({"id": id, "engine": "demo", "workflowId": "w", "parameters": {"echo": format!("{CANARY} {id}")}});
        match house.try_call("POST", "/v1/executions", Some(&request)) {
            Ok(answer) => {
                assert_eq!(answer.status, 201, "{}", answer.text());
                acknowledged.push(id);
                answered.fetch_add(1, Ordering::SeqCst);
            }
            // It was killed under it.
            Err(_) => break,
        }
    }
    acknowledged
}

#[test]
fn keys_follow_each_other_under_load_and_kills_and_everything_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let write = |keys: &[String]| std::fs::write(&file, keys.join("\n")).unwrap();
    let mut keys = vec![key_of(1)];
    write(&keys);
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, permissions).unwrap();
    let mut house = House::start(&format!("[storage]\nseal_key_file = {:?}\n", file.display().to_string()));
    let mut acknowledged = Vec::new();
    for round in 0..6_u64 {
        // The new one in front, the old one behind it, as the instructions say.
        keys.insert(0, key_of(10 + round as u8));
        keys.truncate(2);
        write(&keys);
        let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let found = std::thread::scope(|scope| {
            let loads = scope.spawn(|| load(&house, round, &stop, &answered));
            while answered.load(Ordering::SeqCst) < 10 {
                assert!(!loads.is_finished(), "the load ended: {}", house.said());
                std::thread::yield_now();
            }
            // The kill comes before, while and after it rotates: later in each round, counted in submits.
            let rotates = scope.spawn(|| house.try_call("POST", "/v1/encryption/rotate", None));
            let until = answered.load(Ordering::SeqCst) + round as usize;
            while answered.load(Ordering::SeqCst) < until && !loads.is_finished() {
                std::thread::yield_now();
            }
            house.signal("KILL");
            let _ = rotates.join().unwrap();
            stop.store(true, Ordering::SeqCst);
            loads.join().unwrap()
        });
        acknowledged.extend(found);
        house.kill();
        house.launch();
    }
    let view = house.must("POST", "/v1/encryption/rotate", None);
    let rotations = view["dataKeys"].as_array().unwrap().len();
    assert!(rotations > 1 && view["missing"] == json!([]) && view["unknown"] == 0, "{view:#}");
    assert!(!acknowledged.is_empty());
    for id in &acknowledged {
        assert_eq!(house.ended(id)["status"], "completed");
        let result = house.must("GET", &format!("/v1/executions/{id}/result"), None);
        assert_eq!(result["result"]["echo"], format!("{CANARY} {id}"));
    }
    println!("{} results under {rotations} data keys, unreadable 0", acknowledged.len());
    let said = house.cli(&["encryption", "check"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success() && text.contains("seals") && text.contains("retired at"), "{text}");
    assert!(keys.iter().all(|key| !text.contains(key.as_str()) && !house.said().contains(key.as_str())));
    // A key that is in force must not be taken away before the ring is sealed with another.
    write(&[key_of(99)]);
    let (status, answer) = house.call("POST", "/v1/encryption/rotate", None);
    assert_eq!((status, &answer["code"]), (503, &json!("key_missing")), "{answer}");
    write(&keys[..1]);
    assert_eq!(house.must("POST", "/v1/encryption/rotate", None)["verdict"], "ok");
    house.stop();
}
