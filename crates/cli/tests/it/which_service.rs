//! A command that names a data directory, or a configuration, reaches its service and no other.

use crate::house::House;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A service of someone else: answers everything with 200, and keeps what it was sent.
struct Stranger {
    address: SocketAddr,
    heard: mpsc::Receiver<String>,
}

impl Stranger {
    fn at(address: &str, answer: &'static str) -> Stranger {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if let Some(head) = answered(connection, answer) {
                    let _ = tell.send(head);
                }
            }
        });
        Stranger { address, heard }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request it was sent so far, in small letters.
    fn heard(&self) -> String {
        self.heard.try_iter().collect::<String>().to_ascii_lowercase()
    }
}

fn answered(mut connection: TcpStream, answer: &str) -> Option<String> {
    connection.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let length = answer.len();
    let head_of_answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    connection.write_all((head_of_answer + answer).as_bytes()).ok()?;
    String::from_utf8(head).ok()
}

/// Ends with 6 and says whose service does not run.
fn refused(house: &House, command: &mut Command) {
    let output = command.output().unwrap();
    let said = err(&output);
    assert_eq!(output.status.code(), Some(6), "{command:?}: {said}");
    let named = format!("the service of {} does not run", house.data().display());
    assert!(said.contains(&named) && said.contains("enginehouse serve --data"), "{command:?}: {said}");
}

#[test]
fn a_stopped_service_is_not_looked_for_elsewhere() {
    let mut house = House::start("");
    let (data, config) = (house.data(), house.dir.path().join("enginehouse.toml"));
    let of_config = format!("[storage]\ndata_dir = {data:?}\n\n[engines.demo]\ntype = \"demo\"\n");
    std::fs::write(&config, of_config).unwrap();
    let ways: [fn(&House) -> Command; 5] = [
        |house| house.bare_cli(&["queue", "--json", "--data", house.data().to_str().unwrap()]),
        |house| {
            let mut command = house.bare_cli(&["queue", "--json"]);
            command.env("ENGINEHOUSE_DATA", house.data());
            command
        },
        |house| {
            let mut command = house.bare_cli(&["queue", "--json"]);
            command.env("ENGINEHOUSE_CONFIG", house.dir.path().join("enginehouse.toml"));
            command.current_dir("/");
            command
        },
        |house| {
            let mut command = house.bare_cli(&["queue", "--json"]);
            command.env("ENGINEHOUSE_STORAGE__DATA_DIR", house.data()).current_dir("/");
            command
        },
        // No one names it, and it is there.
        |house| house.bare_cli(&["queue", "--json"]),
    ];
    for (index, way) in ways.iter().enumerate() {
        let found = way(&house).output().unwrap();
        assert!(found.status.success(), "way {index}: {}", err(&found));
    }
    house.kill();
    assert!(data.join("address").exists(), "who is killed takes nothing back");
    for way in &ways {
        refused(&house, &mut way(&house));
    }
    // Someone else has its port now.
    for answer in ["{}", "{\"proof\":null}", "{\"proof\":\"00\"}", "<html>"] {
        let stranger = Stranger::at("127.0.0.1:0", answer);
        let told = std::fs::read_to_string(data.join("address")).unwrap();
        let secret = told.lines().nth(1).unwrap();
        std::fs::write(data.join("address"), format!("{}\n{secret}\n", stranger.url())).unwrap();
        for way in &ways {
            refused(&house, &mut way(&house));
        }
        let heard = stranger.heard();
        assert!(heard.contains("get /identity?challenge="), "{heard}");
        assert!(!heard.contains("authorization") && !heard.contains("/v1/queue"), "{heard}");
        assert!(!heard.contains(secret), "{heard}");
    }
    house.launch();
    for way in &ways {
        assert!(way(&house).output().unwrap().status.success());
    }
    house.halt();
    assert!(!data.join("address").exists());
    for way in &ways {
        refused(&house, &mut way(&house));
    }
}

#[test]
fn a_killed_service_is_not_mistaken_for_the_one_that_has_its_port_now() {
    let mut killed = House::start("");
    killed.kill();
    let mut other = House::prepare("");
    other.address = killed.address;
    other.launch();
    other.read_key();
    refused(
        &killed,
        &mut killed.bare_cli(&["engines", "pause", "demo", "--data", killed.data().to_str().unwrap()]),
    );
    let engine = other.must("GET", "/v1/engines/demo", None);
    assert_eq!(engine["paused"], false, "{engine}");
    other.stop();
}

#[test]
fn a_url_and_a_data_directory_mean_one_service() {
    let house = House::start("");
    let stranger = Stranger::at("127.0.0.1:0", "{\"proof\":null}");
    let data = house.data();
    let (data, there) = (data.to_str().unwrap(), stranger.url());
    let here = format!("http://{}", house.address);
    let both = house.bare_cli(&["queue", "--url", &here, "--data", data]).output().unwrap();
    assert!(both.status.success(), "{}", err(&both));
    let apart = house.bare_cli(&["queue", "--url", &there, "--data", data]).output().unwrap();
    assert_eq!(apart.status.code(), Some(6), "{}", err(&apart));
    // A flag wins over the environment.
    let by_flag = house.bare_cli(&["queue", "--data", data]).env("ENGINEHOUSE_URL", &there).output().unwrap();
    assert!(by_flag.status.success(), "{}", err(&by_flag));
    let elsewhere =
        house.bare_cli(&["queue", "--url", &there]).env("ENGINEHOUSE_DATA", data).output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "{}", err(&elsewhere));
    let heard = stranger.heard();
    assert!(heard.contains("get /v1/queue"), "{heard}");
    assert!(!heard.contains("authorization"), "nobody else is sent its key: {heard}");
    // Its own key it is sent, wherever it is called by.
    let own = house.bare_cli(&["queue", "--url", &here]).env("ENGINEHOUSE_DATA", data).output().unwrap();
    assert!(own.status.success(), "{}", err(&own));
    house.stop();
}

#[test]
fn doctor_looks_at_the_files_of_the_service_that_is_meant() {
    let mut house = House::start("");
    house.halt();
    let stranger = Stranger::at("127.0.0.1:0", "{\"proof\":null}");
    std::fs::write(house.data().join("address"), format!("{}\n{}\n", stranger.url(), "0".repeat(64)))
        .unwrap();
    let config = house.dir.path().join("enginehouse.toml");
    let text = format!("[storage]\ndata_dir = {:?}\n", house.data());
    std::fs::write(&config, text).unwrap();
    let args = ["doctor", "--json", "--config", config.to_str().unwrap()];
    let output = house.bare_cli(&args).current_dir("/").output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = |check: &str| {
        let all = told["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check}: {told}"))["text"]
            .to_string()
    };
    assert!(finding("service").contains(house.data().to_str().unwrap()), "{told}");
    assert!(finding("store").contains("is sound"), "{told}");
    assert!(!stranger.heard().contains("authorization"));
}
