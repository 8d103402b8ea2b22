//! From the configuration to the options of the client: everything that can be wrong for good is found here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use http::Uri;

use super::back_off::back_off;
use super::observer::Observer;
use super::{ConnectError, NatsConfig, spell};

/// One attempt to connect to one server, greeting included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that leaves three of these in a row unanswered is taken for dead: after nine seconds.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// For users of the client who name no limit of their own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The characters of an nkey seed.
const SEED_LENGTH: usize = 58;

pub(super) fn servers(config: &NatsConfig) -> Result<Vec<ServerAddr>, ConnectError> {
    let parse = |url: &String| url.trim().parse().map_err(|source| ConnectError::Url { url: url.clone(), source });
    let servers: Vec<ServerAddr> = config.url.iter().map(parse).collect::<Result<_, _>>()?;
    if servers.is_empty() { Err(ConnectError::NoServer) } else { Ok(servers) }
}

pub(super) fn monitors(config: &NatsConfig) -> Result<Vec<Uri>, ConnectError> {
    let parse = |url: &String| {
        let parsed = url.trim().parse::<Uri>().ok().filter(|uri| uri.authority().is_some() && uri.scheme().is_some());
        parsed.ok_or_else(|| ConnectError::MonitorUrl { url: url.clone() })
    };
    config.monitor_url.iter().map(parse).collect()
}

pub(super) async fn options(config: &NatsConfig, servers: &[ServerAddr], observer: Observer) -> Result<ConnectOptions, ConnectError> {
    let observer = Arc::new(observer);
    let mut options = ConnectOptions::new()
        .name("keyrelay")
        .retry_on_initial_connect()
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .reconnect_delay_callback(back_off()?)
        .event_callback(move |event| {
            let observer = Arc::clone(&observer);
            async move { observer.see(&event) }
        });
    // The client takes no notice of a user and a password in an address.
    if let Some(server) = servers.iter().find(|server| server.has_user_pass()) {
        let password = server.password().unwrap_or_default().to_owned();
        tracing::debug!(server = spell(server), "user and password are taken from the address");
        options = options.user_and_password(server.username().unwrap_or_default().to_owned(), password);
    }
    if let Some(path) = &config.nkey {
        options = options.nkey(seed(path)?);
    }
    if let Some(path) = &config.credentials {
        let text = read_secret(path)?;
        options = options.credentials(&text).map_err(|source| ConnectError::Credentials { path: path.clone(), source })?;
    }
    if let Some(path) = &config.tls_ca {
        read(path)?;
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    match (&config.tls_cert, &config.tls_key) {
        (None, None) => {}
        (Some(certificate), Some(key)) => {
            read(certificate)?;
            read_secret(key)?;
            options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        _ => return Err(ConnectError::TlsPair),
    }
    Ok(options)
}

fn seed(path: &Path) -> Result<String, ConnectError> {
    let text = read_secret(path)?;
    let seed = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let is_seed = seed.len() == SEED_LENGTH && seed.starts_with("SU") && seed.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'));
    if is_seed { Ok(seed.to_owned()) } else { Err(ConnectError::Nkey { path: path.to_owned() }) }
}

/// Reads a file that other users of this machine must not be able to read. The group may: service managers hand secrets over that way.
fn read_secret(path: &Path) -> Result<String, ConnectError> {
    let error = |source| ConnectError::File { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(error)?.permissions().mode() & 0o7777;
    if mode & 0o004 != 0 { Err(ConnectError::Exposed { path: path.to_owned(), mode }) } else { read(path) }
}

fn read(path: &Path) -> Result<String, ConnectError> {
    fs::read_to_string(path).map_err(|source| ConnectError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::nats::Nats;

    const SEED: &str = "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY";

    fn config() -> NatsConfig {
        NatsConfig { url: vec!["nats://127.0.0.1:1".to_owned()], ..NatsConfig::default() }
    }

    fn file(directory: &Path, name: &str, text: &str, mode: u32) -> std::path::PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[tokio::test]
    async fn what_can_never_work_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str, mode| Some(file(directory.path(), name, text, mode));
        let refused = async |config: NatsConfig| Nats::connect(config).await.err().unwrap();

        assert!(matches!(refused(NatsConfig::default()).await, ConnectError::NoServer));
        let url = vec!["http://127.0.0.1".to_owned()];
        assert!(matches!(refused(NatsConfig { url, ..config() }).await, ConnectError::Url { .. }));
        let monitor_url = vec!["/varz".to_owned()];
        assert!(matches!(refused(NatsConfig { monitor_url, ..config() }).await, ConnectError::MonitorUrl { .. }));
        let nkey = path("open", SEED, 0o644);
        assert!(matches!(refused(NatsConfig { nkey, ..config() }).await, ConnectError::Exposed { mode: 0o644, .. }));
        let nkey = path("word", "password", 0o600);
        assert!(matches!(refused(NatsConfig { nkey, ..config() }).await, ConnectError::Nkey { .. }));
        let nkey = Some(directory.path().join("absent"));
        assert!(matches!(refused(NatsConfig { nkey, ..config() }).await, ConnectError::File { .. }));
        let credentials = path("creds", "no credentials", 0o600);
        assert!(matches!(refused(NatsConfig { credentials, ..config() }).await, ConnectError::Credentials { .. }));
        let tls_cert = path("cert", "", 0o644);
        assert!(matches!(refused(NatsConfig { tls_cert, ..config() }).await, ConnectError::TlsPair));
    }

    #[tokio::test]
    async fn an_absent_server_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let nkey = Some(file(directory.path(), "seed", &format!("{SEED}\n"), 0o600));
        let nats = Nats::connect(NatsConfig { nkey, ..config() }).await.unwrap();
        assert!(!nats.connected().borrow().is_up);
        assert_eq!(nats.replicas(), None);
        nats.close().await;
    }
}
