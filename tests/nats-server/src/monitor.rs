//! What a server's monitoring address tells.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::Server;

const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn is_healthy(server: &Server) -> bool {
    get(server, "/healthz").is_some_and(|answer| answer["status"] == "ok")
}

/// The name of the server that leads a stream, as this server knows it.
pub(crate) fn leader_of(server: &Server, stream: &str) -> Option<String> {
    let answer = get(server, "/jsz?accounts=true&streams=true&config=true")?;
    let accounts = answer["account_details"].as_array()?;
    let streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
    let found = streams.into_iter().find(|detail| detail["name"] == stream)?;
    found["cluster"]["leader"].as_str().filter(|leader| !leader.is_empty()).map(str::to_owned)
}

pub(crate) fn get(server: &Server, path: &str) -> Option<Value> {
    serde_json::from_str(&fetch(server.monitor(), path).ok()?).ok()
}

fn fetch(monitor: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&monitor, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
