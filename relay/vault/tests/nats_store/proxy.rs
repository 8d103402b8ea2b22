//! A way to the server that can be cut in the moment after a write was let through and before it is acknowledged.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

pub(crate) struct Proxy {
    pub(crate) url: String,
    /// How many writes to come lose their answer, and the connection with it.
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens until the process ends.
    pub(crate) fn start(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (cuts, server) = (Arc::new(AtomicUsize::new(0)), server.trim_start_matches("nats://").to_owned());
        let shared = Arc::clone(&cuts);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (from_server, to_client, cuts) = (server.try_clone().unwrap(), client.try_clone().unwrap(), Arc::clone(&shared));
                thread::spawn(move || pass(from_server, to_client));
                thread::spawn(move || pass_and_cut(client, server, &cuts));
            }
        });
        Self { url, cuts }
    }

    pub(crate) fn cut_after_writes(&self, count: usize) {
        self.cuts.store(count, Ordering::SeqCst);
    }

    pub(crate) fn cuts_left(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    // Either end may go at any time.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

fn pass_and_cut(mut client: TcpStream, mut server: TcpStream, cuts: &AtomicUsize) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let is_write = String::from_utf8_lossy(&buffer[..length]).contains("HPUB $KV.");
        if is_write && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            // The answer goes nowhere; the server has the write once it had the time to read it.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.write_all(&buffer[..length]);
            thread::sleep(Duration::from_millis(200));
            break;
        }
        if server.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}
