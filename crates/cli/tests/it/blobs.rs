//! Results too large for their row: in a directory and in S3, streamed, sealed, backed up, removed.

use crate::house::{House, program, skipped};
use crate::http::{self, Answer};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CANARY: &str = "canary-5e8d20b7";
const MIB: usize = 1 << 20;

fn submit(house: &House, id: &str, bytes: usize) {
    let parameters = json!({"echo": format!("{CANARY} {id}"), "resultBytes": bytes});
    let request = json!({"id": id, "engineType": "demo", "workflowId": "w", "parameters": parameters});
    house.must("POST", "/v1/executions", Some(&request));
}

fn get(house: &House, id: &str, more: &[(&str, &str)]) -> Answer {
    let bearer = format!("Bearer {}", house.key);
    let headers = [&[("authorization", bearer.as_str())], more].concat();
    let path = format!("/v1/executions/{id}/result");
    http::send(house.address, &http::request("GET", &path, &headers, b"")).unwrap()
}

/// The files of blobs, by name.
fn blobs(house: &House) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for execution in std::fs::read_dir(house.data().join("blobs")).unwrap() {
        // It may go while it is looked at.
        let Ok(files) = std::fs::read_dir(execution.unwrap().path()) else { continue };
        found.extend(files.map(|file| file.unwrap().path()));
    }
    found.sort();
    found
}

fn until(house: &House, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: {}", house.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_large_result_comes_whole_and_in_parts_and_goes_with_its_execution() {
    let mut house = House::start("[storage]\nended_max = 3\n");
    submit(&house, "large", 5 * MIB + 7);
    submit(&house, "small", 1_000);
    house.ended("large");
    house.ended("small");
    assert_eq!(blobs(&house).len(), 1);
    let whole = get(&house, "large", &[]);
    let length = whole.header("content-length").map(|text| text.parse::<usize>().unwrap());
    assert_eq!((whole.status, length), (200, Some(whole.body.len())));
    let view = whole.json();
    assert_eq!(view["result"]["echo"], format!("{CANARY} large"));
    assert_eq!(view["result"]["data"].as_str().unwrap().len(), 5 * MIB + 7);
    assert_eq!((&view["status"], &view["failure"]), (&json!("completed"), &Value::Null));
    let tag = whole.header("etag").unwrap().to_owned();
    assert_eq!(get(&house, "large", &[("if-none-match", &tag)]).status, 304);
    // From within what stands before the result to behind it, over the borders of frames.
    let end = whole.body.len();
    for (from, to) in
        [(0, 10), (100, 200), (MIB, 2 * MIB), (MIB + 5, 4 * MIB + 100), (end - 5, end), (0, end)]
    {
        let part =
            get(&house, "large", &[("range", &format!("bytes={from}-{}", to - 1)), ("if-range", &tag)]);
        assert_eq!(part.status, 206, "{}", part.head);
        assert!(part.body == whole.body[from..to], "{from} to {to}");
    }
    let request =
        json!({"id": "waited", "engineType": "demo", "workflowId": "w", "parameters": {"resultBytes": MIB}});
    let waited = house.must("POST", "/v1/executions?wait=30s", Some(&request));
    assert_eq!(waited["result"]["data"].as_str().unwrap().len(), MIB, "{}", waited["status"]);
    let stored = house.must("GET", "/v1/storage", None);
    let place = house.data().canonicalize().unwrap().join("blobs").display().to_string();
    assert_eq!((&stored["blobs"]["count"], &stored["blobs"]["place"]), (&json!(2), &json!(place)));
    let shown = house.cli(&["storage"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("2 above 256 KiB"), "{shown:?}");
    let doctor = house.must("GET", "/v1/doctor", None).to_string();
    assert!(doctor.contains("can be written, read and cleared"), "{doctor}");
    // A backup has them, and stands on its own.
    let backup = house.dir.path().join("monday.sqlite");
    let said = house.cli(&["backup", backup.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("2 large results"), "{said:?}");
    let again = house.cli(&["backup", backup.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"), "{again:?}");
    for id in ["a", "b", "c"] {
        submit(&house, id, 10);
        house.ended(id);
    }
    until(&house, "blobs go with their executions", || blobs(&house).is_empty());
    assert_eq!(house.must("GET", "/v1/storage", None)["blobs"]["count"], 0);
    let seal = std::fs::read_to_string(house.data().join("seal-key.path")).unwrap();
    house.kill();
    std::fs::remove_dir_all(house.data()).unwrap();
    let mut restore = program();
    restore.args(["restore", backup.to_str().unwrap(), "--seal-key-file", seal.trim(), "--data"]);
    let restored = restore.arg(house.data()).output().unwrap();
    assert!(restored.status.success(), "{restored:?}");
    std::fs::write(house.dir.path().join("enginehouse.toml"), "[engines.demo]\ntype = \"demo\"\n").unwrap();
    house.launch();
    assert!(get(&house, "large", &[]).body == whole.body, "a restored result is the same");
    house.stop();
}

#[test]
fn a_blob_that_was_tampered_with_is_refused_and_says_nothing() {
    let house = House::start("[storage]\ncompression_enabled = false\n");
    let ids = ["magic", "form", "key", "nonce", "text", "tag", "short", "order", "other", "gone", "left"];
    for id in ids {
        submit(&house, id, 2 * MIB);
    }
    ids.iter().for_each(|id| assert_eq!(house.ended(id)["status"], "completed"));
    // Which execution a file belongs to is told by the only thing about it that can be read from outside.
    let key_of = |id: &str| {
        let store = rusqlite::Connection::open(house.data().join("enginehouse.sqlite")).unwrap();
        let key: i64 =
            store.query_row("SELECT key FROM execution WHERE ext_id = ?", [id], |row| row.get(0)).unwrap();
        format!("{key:016x}")
    };
    let file = |id: &str| {
        let dir = house.data().join("blobs").join(key_of(id));
        std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    };
    let frame = MIB + 49;
    for (id, at) in
        [("magic", 0), ("form", 4), ("key", 6), ("nonce", 20), ("text", 5_000), ("tag", frame - 1)]
    {
        let mut bytes = std::fs::read(file(id)).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()), "{id}");
        bytes[at] ^= 1;
        std::fs::write(file(id), bytes).unwrap();
    }
    let short = std::fs::read(file("short")).unwrap();
    std::fs::write(file("short"), &short[..MIB]).unwrap();
    let order = std::fs::read(file("order")).unwrap();
    let swapped = [&order[frame..2 * frame], &order[..frame], &order[2 * frame..]].concat();
    std::fs::write(file("order"), swapped).unwrap();
    std::fs::copy(file("left"), file("other")).unwrap();
    std::fs::remove_file(file("gone")).unwrap();
    for id in ids {
        let answer = get(&house, id, &[]);
        if id == "left" {
            assert_eq!(answer.json()["result"]["echo"], format!("{CANARY} left"));
            continue;
        }
        let told = if id == "key" { (503, json!("key_missing")) } else { (500, json!("payload_damaged")) };
        assert_eq!((answer.status, answer.json()["code"].clone()), told, "{id}");
        assert!(!answer.text().contains(CANARY), "{id}");
    }
    assert!(!house.said().contains(CANARY));
    house.stop();
}

#[cfg(debug_assertions)]
#[test]
fn a_blob_that_a_kill_left_is_swept_and_the_result_is_there() {
    let mut house = House::prepare("[storage.blobs]\norphan_after = \"1s\"\n");
    let mut killed = house.serve();
    killed.env("ENGINEHOUSE_BREAKPOINT", "blob.written:1");
    house.spawn(killed);
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    submit(&house, "large", 3 * MIB);
    assert!(house.ended_within(Duration::from_secs(60)).is_some(), "it was to be killed: {}", house.said());
    let left = blobs(&house);
    assert_eq!(left.len(), 1, "{left:?}");
    // What a write leaves that does not end.
    let unfinished = left[0].with_extension("#1");
    std::fs::write(&unfinished, b"half").unwrap();
    house.launch();
    assert_eq!(house.ended("large")["status"], "completed");
    until(&house, "the orphan goes", || !left[0].exists() && !unfinished.exists());
    assert_eq!(blobs(&house).len(), 1);
    assert_eq!(get(&house, "large", &[]).json()["result"]["data"].as_str().unwrap().len(), 3 * MIB);
    house.stop();
}

/// A server of others that speaks S3, with one bucket.
struct Bucket {
    process: Child,
    address: SocketAddr,
}

impl Bucket {
    fn start(address: SocketAddr) -> Option<Bucket> {
        let Some(python) = std::env::var_os("ENGINEHOUSE_WITNESS") else {
            skipped("there is no server that speaks S3: `cargo xtask ci witnesses` installs it");
            return None;
        };
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let bucket = Bucket { process, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while bucket.ask("PUT", "/results").is_none_or(|answer| answer.status != 200) {
            assert!(Instant::now() < deadline, "no server came up on {address}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(bucket)
    }

    fn ask(&self, method: &str, path: &str) -> Option<Answer> {
        http::send(self.address, &http::request(method, path, &[], b"")).ok()
    }

    /// How many objects it has below the prefix, by its own account.
    fn objects(&self) -> usize {
        let listed = self.ask("GET", "/results?list-type=2&prefix=house/").unwrap();
        listed.text().matches("<Key>house/").count() - listed.text().matches("<Key>house/owner</Key>").count()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn large_results_lie_in_s3_and_wait_while_it_is_away() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Some(bucket) = Bucket::start(address) else { return };
    let mut house = House::prepare(&format!(
        "[storage]\nended_max = 2\n[storage.blobs]\nurl = \"s3://results/house\"\n[storage.blobs.options]\n\
         endpoint = \"http://{address}\"\nallow_http = \"true\"\nregion = \"us-east-1\"\n\
         access_key_id = {{ env = \"BUCKET_ID\" }}\nsecret_access_key = {{ env = \"BUCKET_SECRET\" }}\n"
    ));
    let mut serve = house.serve();
    serve.env("BUCKET_ID", "somebody").env("BUCKET_SECRET", "bucket-secret-93c1");
    house.spawn(serve);
    assert!(house.ready().is_none(), "{}", house.said());
    house.read_key();
    // More than one part of an upload.
    submit(&house, "large", 20 * MIB);
    submit(&house, "other", MIB);
    house.ended("large");
    house.ended("other");
    assert_eq!(bucket.objects(), 2);
    let whole = get(&house, "large", &[]);
    assert_eq!(whole.json()["result"]["data"].as_str().unwrap().len(), 20 * MIB);
    let part = get(&house, "large", &[("range", "bytes=10000000-10000099")]);
    assert!(part.status == 206 && part.body == whole.body[10_000_000..10_000_100]);
    let doctor = house.must("GET", "/v1/doctor", None).to_string();
    assert!(doctor.contains("s3://results/house can be written, read and cleared"), "{doctor}");
    assert!(!house.data().join("blobs").exists());
    // Another store there would remove what it does not know.
    let other = House::prepare("");
    std::fs::copy(house.dir.path().join("enginehouse.toml"), other.dir.path().join("enginehouse.toml"))
        .unwrap();
    let mut refused = other.serve();
    let refused =
        refused.env("BUCKET_ID", "somebody").env("BUCKET_SECRET", "bucket-secret-93c1").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("large results of another store"), "{said}");
    for id in ["a", "b"] {
        submit(&house, id, 10);
        house.ended(id);
    }
    until(&house, "objects go with their executions", || bucket.objects() == 0);
    // While it is away an execution that has ended is not told as such, and its result is not lost.
    drop(bucket);
    submit(&house, "late", MIB);
    until(&house, "that it cannot be stored is told", || {
        house.said().contains("a large result could not be stored")
    });
    assert_eq!(house.must("GET", "/v1/executions/late", None)["status"], "running");
    let bucket = Bucket::start(address).unwrap();
    assert_eq!(house.ended("late")["status"], "completed");
    assert_eq!(
        (bucket.objects(), house.must("GET", "/v1/executions/late", None)["attempt"].clone()),
        (1, json!(1))
    );
    drop(bucket);
    let away = get(&house, "late", &[]);
    assert_eq!((away.status, &away.json()["code"]), (503, &json!("store_unavailable")), "{}", away.text());
    assert!(!house.said().contains("bucket-secret-93c1") && !away.text().contains("bucket-secret-93c1"));
    house.stop();
}
