//! Ports that no other test on this machine takes meanwhile, in whatever process it runs.
//!
//! A port that the system gives out is free for a moment only: until its server listens, and each time the server starts again, another test
//! or an outgoing connection may take it, and a client then speaks to a stranger. So ports are taken below those that the system gives out, and
//! a locked file keeps each for as long as the servers exist.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::process;

use anyhow::{Result, bail};

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;
/// Processes begin to look in different places.
const STRIDE: u32 = 37;

/// The ports of one cluster. They are free again when it is dropped.
#[derive(Default)]
pub(crate) struct Ports {
    locks: Vec<File>,
}

impl Ports {
    pub(crate) fn take(&mut self) -> Result<u16> {
        let directory = env::temp_dir().join("keyrelay-test-ports");
        fs::create_dir_all(&directory)?;
        let start = process::id().wrapping_mul(STRIDE);
        for offset in 0..u32::from(COUNT) {
            let port = FIRST + u16::try_from(start.wrapping_add(offset) % u32::from(COUNT))?;
            let lock = File::options().create(true).truncate(false).write(true).open(directory.join(port.to_string()))?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                self.locks.push(lock);
                return Ok(port);
            }
        }
        bail!("no port from {FIRST} on is free")
    }
}
