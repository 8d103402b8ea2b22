//! The configuration file of each server.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::ports::Ports;
use crate::{Place, Sync};

/// Where one server listens and keeps its data.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) client_port: u16,
    pub(crate) monitor_port: u16,
    pub(crate) file: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) output: PathBuf,
}

/// Writes the files of a cluster; a single server has no `cluster` section, which makes it one that is not clustered.
pub(crate) fn of_cluster(directory: &Path, ports: &mut Ports, places: &[Place], sync: Sync, further: &str) -> Result<Vec<ServerConfig>> {
    let cluster_addresses = places.iter().map(|place| Ok(format!("{}:{}", place.address, ports.take()?))).collect::<Result<Vec<_>>>()?;
    let routes: Vec<String> = cluster_addresses.iter().map(|address| format!("nats-route://{address}")).collect();
    let ones = places.iter().zip(&cluster_addresses).enumerate();
    ones.map(|(index, (place, cluster_address))| {
        let name = format!("n{index}");
        let config = ServerConfig {
            place: place.clone(),
            client_port: ports.take()?,
            monitor_port: ports.take()?,
            file: directory.join(format!("{name}.conf")),
            store: directory.join(&name),
            output: directory.join(format!("{name}.log")),
            name,
        };
        fs::create_dir_all(&config.store)?;
        let sync = if sync == Sync::Always { ", sync_interval: always" } else { "" };
        // Where a test has an address of its own for a server, clients must not learn it: they would not notice that they are cut off.
        let listen = if place.address == place.watch_address { place.address } else { Ipv4Addr::UNSPECIFIED };
        let mut text = String::new();
        writeln!(text, "server_name: {}", config.name)?;
        writeln!(text, "listen: {listen}:{}", config.client_port)?;
        writeln!(text, "client_advertise: {}:{}", place.address, config.client_port)?;
        writeln!(text, "http: {}:{}", place.watch_address, config.monitor_port)?;
        writeln!(text, "jetstream {{ store_dir: {:?}{sync} }}\n{further}", config.store)?;
        if places.len() > 1 {
            writeln!(text, "cluster {{ name: tests, listen: {cluster_address}, routes: [{}] }}", routes.join(", "))?;
        }
        fs::write(&config.file, text)?;
        Ok(config)
    })
    .collect()
}
