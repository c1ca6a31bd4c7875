//! The door: slow and silent callers, calls without keys, TLS.

use crate::house::{House, program};
use crate::http::{request, send};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Reads until the server closes the connection.
fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        // A reset closes it as well.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("it stays open: {error}"),
    }
}

#[test]
fn slow_and_silent_callers_are_cut() {
    let house =
        House::start("[server]\nheader_timeout = \"1s\"\nidle_timeout = \"1s\"\nbody_timeout = \"1s\"\n");
    let connect = || TcpStream::connect(house.address).unwrap();
    assert_eq!(until_closed(&mut connect()), b"", "one that says nothing");
    let mut slow = connect();
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n").unwrap();
    until_closed(&mut slow);
    let mut half = connect();
    let head = format!(
        "POST /v1/executions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{",
        house.key
    );
    half.write_all(head.as_bytes()).unwrap();
    let answer = until_closed(&mut half);
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    let mut idle = connect();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").unwrap();
    assert!(
        until_closed(&mut idle).starts_with(b"HTTP/1.1 200 "),
        "it is answered, and closed once it is idle"
    );
    house.stop();
}

#[test]
fn without_keys_only_this_machine_s_own_programs_are_answered() {
    let house = House::start("[server]\nauth = false\n");
    let call = |headers: &[(&str, &str)]| {
        send(house.address, &request("GET", "/v1/queue", headers, b"")).unwrap().status
    };
    assert_eq!(call(&[]), 200);
    assert_eq!(call(&[("origin", "http://evil.example")]), 403, "a page from elsewhere");
    let pause = request("POST", "/v1/engines/demo/pause", &[("sec-fetch-site", "cross-site")], b"");
    assert_eq!(send(house.address, &pause).unwrap().status, 403, "a page from elsewhere that steers");
    let rebound = b"GET /v1/queue HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(send(house.address, rebound).unwrap().status, 403, "a name that was made to point here");
    house.stop();
    let everywhere =
        program().args(["serve", "--no-auth", "--listen", "0.0.0.0:0", "--data", "unused"]).output().unwrap();
    assert_eq!(everywhere.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&everywhere.stderr).contains("address of this machine"));
}

#[test]
fn https_with_a_certificate_of_one_s_own() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = dir.path().join("enginehouse.toml");
    let text =
        format!("[engines.demo]\ntype = \"demo\"\n[server.tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n");
    std::fs::write(&config, text).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let data = dir.path().join("data");
    let mut serve = program()
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--config"])
        .arg(&config)
        .arg("--data")
        .arg(&data)
        .env("XDG_CONFIG_HOME", dir.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let queue = |trusted: bool| {
        let mut command = program();
        command.args(["queue", "--url", &format!("https://localhost:{port}"), "--data"]).arg(&data);
        if trusted {
            command.arg("--ca-file").arg(&cert);
        }
        command.env_remove("ENGINEHOUSE_API_KEY").output().unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !queue(true).status.success() {
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&queue(true).stderr));
    }
    assert_eq!(queue(false).status.code(), Some(6), "a certificate nobody vouches for");
    serve.kill().unwrap();
    serve.wait().unwrap();
}
