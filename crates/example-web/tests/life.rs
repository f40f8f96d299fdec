//! Tests that run the program as a process.
#![cfg(test)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", flags)
    }

    fn start_at(listen: &str, flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_example-web"))
            .args(["--listen", listen, "--name", "web-1", "--release", "7"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        log.read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { process, address }
    }

    fn get(&self, headers: &str) -> String {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        write!(connection, "GET / HTTP/1.1\r\nHost: web\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    fn terminate(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn the_answer_contains_name_and_release_and_the_addresses_of_client_and_service() {
    let server = Server::start(&[]);
    let answer = server.get("Connection: close\r\n");
    assert!(
        answer.contains("\r\n\r\nweb-1 7\nclient 127.0.0.1:"),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("service address {}", server.address)),
        "{answer}"
    );
}

#[test]
fn listen_with_a_port_alone_serves_ipv4_and_ipv6() {
    let mut server = Server::start_at("0", &[]);
    let (_, port) = server.address.rsplit_once(':').unwrap();
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        server.address.clone_from(&address);
        let answer = server.get("Connection: close\r\n");
        let expected = format!("service address {address}\n");
        assert!(answer.contains(&expected), "{answer}");
    }
}

#[test]
fn after_sigterm_the_server_answers_with_connection_close() {
    let server = Server::start(&["--linger", "60s"]);
    let mut before = TcpStream::connect(&server.address).unwrap();
    server.terminate();
    // The server reads the signal at an unknown moment, so the client repeats its request until an
    // answer has `Connection: close`.
    let mut answer = String::new();
    while !answer.contains("connection: close") {
        answer.clear();
        write!(before, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
        let mut piece = [0; 1024];
        let length = before.read(&mut piece).unwrap();
        assert!(
            length > 0,
            "the server closed the connection without `Connection: close`"
        );
        answer.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    assert!(server.get("").contains("web-1 7"));
}

#[test]
fn the_server_ends_after_the_linger_time() {
    let mut server = Server::start(&["--linger", "10ms"]);
    server.terminate();
    assert!(server.process.wait().unwrap().success());
}

#[track_caller]
fn check_refused(flags: &[&str], expected: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_example-web"))
        .args(flags)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(expected), "{error}");
}

#[test]
fn an_invalid_value_of_a_flag_is_refused_with_the_allowed_forms() {
    check_refused(&["--linger", "10"], "with its unit: 500ms, 10s");
    check_refused(&["--listen", "fd00::5"], "or PORT alone, such as 80");
    for listen in ["65536", "+80"] {
        check_refused(&["--listen", listen], "or PORT alone, such as 80");
    }
}
