//! The configuration file of each server.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{Sync, free_port};

/// Where one server listens and keeps its data.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    pub(crate) name: String,
    pub(crate) client_port: u16,
    pub(crate) monitor_port: u16,
    pub(crate) file: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) output: PathBuf,
}

/// Writes the files of a cluster; a single server has no `cluster` section, which makes it one that is not clustered.
pub(crate) fn of_cluster(directory: &Path, count: usize, sync: Sync, further: &str) -> Result<Vec<ServerConfig>> {
    let cluster_ports = (0..count).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
    let routes: Vec<String> = cluster_ports.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
    (0..count)
        .map(|index| {
            let name = format!("n{index}");
            let config = ServerConfig {
                client_port: free_port()?,
                monitor_port: free_port()?,
                file: directory.join(format!("{name}.conf")),
                store: directory.join(&name),
                output: directory.join(format!("{name}.log")),
                name,
            };
            fs::create_dir_all(&config.store)?;
            let sync = if sync == Sync::Always { ", sync_interval: always" } else { "" };
            let mut text = format!(
                "server_name: {}\nlisten: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\njetstream {{ store_dir: {:?}{sync} }}\n{further}\n",
                config.name, config.client_port, config.monitor_port, config.store,
            );
            if count > 1 {
                let listen = cluster_ports[index];
                writeln!(text, "cluster {{ name: tests, listen: 127.0.0.1:{listen}, routes: [{}] }}", routes.join(", "))?;
            }
            fs::write(&config.file, text)?;
            Ok(config)
        })
        .collect()
}
