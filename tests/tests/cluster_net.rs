//! The network of the cluster tests: members hear each other, do not when they are parted, and do again when that is healed.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use nats_server::{Cluster, Place, Sync};
use tests::net::{Member, Net};

/// Whether one member hears another: one packet, one second.
fn hears(from: &Member, to: &Member) -> Result<bool> {
    // Bash opens a connection by itself; a refusal is heard as well as an acceptance, silence is not.
    let script = format!("(exec 3<>/dev/tcp/{}/9) 2>&1", to.address);
    let Output { stdout, .. } = within(from, &["timeout", "1", "bash", "-c", &script])?;
    Ok(String::from_utf8_lossy(&stdout).contains("Connection refused"))
}

fn within(member: &Member, words: &[&str]) -> Result<Output> {
    let under = member.under();
    Ok(Command::new(&under[0]).args(&under[1..]).args(words).output()?)
}

#[test]
fn members_that_are_parted_do_not_hear_each_other_until_it_is_healed() -> Result<()> {
    let net = Net::start(&["a", "b", "c"])?;
    let [a, b, c] = [net.member("a")?, net.member("b")?, net.member("c")?];
    ensure!(hears(&a, &b)? && hears(&b, &a)? && hears(&a, &c)?, "members do not hear each other");
    net.part(&["a"])?;
    ensure!(!hears(&a, &b)? && !hears(&c, &a)? && hears(&b, &c)?, "the wrong ones are parted");
    net.heal()?;
    ensure!(hears(&a, &b)? && hears(&c, &a)?, "not healed");
    Ok(())
}

#[test]
fn a_server_that_is_cut_off_can_be_watched_and_comes_back() -> Result<()> {
    let net = Net::start(&["n0", "n1", "n2"])?;
    let place = |name: &str| -> Result<Place> {
        let member = net.member(name)?;
        Ok(Place { address: member.address, watch_address: member.watch_address, under: member.under() })
    };
    let cluster = Cluster::start_at(&[place("n0")?, place("n1")?, place("n2")?], Sync::Default, "")?;
    net.part(&["n0"])?;
    let meta_leader = |index: usize| {
        let server = &cluster.servers()[index];
        server.ask("/jsz").and_then(|told| told["meta_cluster"]["leader"].as_str().map(str::to_owned)).unwrap_or_default()
    };
    cluster.until("a leader of the majority and none of the minority", || {
        meta_leader(0).is_empty() && meta_leader(1) == meta_leader(2) && ["n1", "n2"].contains(&meta_leader(1).as_str())
    })?;
    net.heal()?;
    cluster.wait_ready()?;
    cluster.until("one leader", || !meta_leader(0).is_empty() && meta_leader(0) == meta_leader(1))
}
