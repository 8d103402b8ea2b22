//! The servers start, end, and come back.

use anyhow::Result;
use nats_server::{Cluster, Sync};

#[test]
fn three_servers_form_one_cluster_and_one_comes_back() -> Result<()> {
    let mut cluster = Cluster::start(3, Sync::Default)?;
    assert_eq!(cluster.url().split(',').count(), 3);
    cluster.server(1).kill()?;
    assert!(!cluster.servers()[1].is_running());
    cluster.server(1).run()?;
    cluster.wait_ready()
}
