//! Network namespaces: each member of a cluster in its own, on a network that can be parted and healed.
//!
//! A member has two links. `net0` is its place in the cluster: it hangs on the bridge of the member's side, and two sides do not hear each
//! other, as with a cable pulled out: nothing is refused, packets are lost. `watch0` goes to the test and is never parted, so that a node can be
//! called and a server's monitor asked whatever is done to their cluster. Only the second network is seen outside of the namespaces.
//!
//! It takes root and the program `ip`; without them a test fails and says so. What a test process left behind that was killed is swept by the
//! next one.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result, ensure};

/// Names of namespaces, bridges and links begin with it, then the process, a letter, the number of the network in the process.
const PREFIX: &str = "kr";
/// Networks for measurements (RFC 2544): no machine is reached through them. The first is seen by the test, the second by no one else.
const WATCH: [u8; 2] = [198, 18];
const CLUSTER: [u8; 3] = [198, 19, 0];
/// Into how many sides a network may be parted.
const SIDES: usize = 3;

/// A network of namespaces. Dropping it removes all of it; the processes in it are ended first by who started them.
pub struct Net {
    tag: String,
    /// The third number of the network that the test sees.
    watch: u8,
    members: Vec<String>,
}

/// A namespace and its two addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    namespace: String,
    /// Where the other members reach it, if they are on its side.
    pub address: Ipv4Addr,
    /// Where the test reaches it, always.
    pub watch_address: Ipv4Addr,
}

impl Member {
    /// What to put in front of a program so that it runs as this member.
    pub fn under(&self) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.namespace].map(OsString::from).to_vec()
    }
}

impl Net {
    /// Makes a network with all members on one side.
    pub fn start(members: &[&str]) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "namespaces take root: run tests/run as root");
        ip("-V").context("the program `ip` is missing: install iproute2, or run tests/run, which does")?;
        sweep()?;
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let tag = format!("{PREFIX}{}{}", std::process::id(), char::from(b'a' + COUNT.fetch_add(1, Ordering::Relaxed) % 26));
        let watch = free_watch()?;
        let mut net = Self { tag, watch, members: Vec::new() };
        for side in 0..SIDES {
            net.bridge(&net.side(side))?;
        }
        let watch_bridge = net.watch_bridge();
        net.bridge(&watch_bridge)?;
        ip(&format!("addr add {}/24 dev {watch_bridge}", net.test_address()))?;
        for name in members {
            net.members.push((*name).to_owned());
            net.join(net.members.len() - 1)?;
        }
        Ok(net)
    }

    /// Where members reach the test.
    pub fn test_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(WATCH[0], WATCH[1], self.watch, 1)
    }

    pub fn member(&self, name: &str) -> Result<Member> {
        let index = self.index(name)?;
        let host = u8::try_from(index + 2)?;
        Ok(Member {
            name: name.to_owned(),
            namespace: self.namespace(index),
            address: Ipv4Addr::new(CLUSTER[0], CLUSTER[1], CLUSTER[2], host),
            watch_address: Ipv4Addr::new(WATCH[0], WATCH[1], self.watch, host),
        })
    }

    /// Parts these members from all others, who stay together.
    pub fn part(&self, apart: &[&str]) -> Result<()> {
        let apart = apart.iter().map(|name| self.index(name)).collect::<Result<Vec<_>>>()?;
        for index in 0..self.members.len() {
            self.put(index, usize::from(apart.contains(&index)))?;
        }
        Ok(())
    }

    /// Puts all members on one side again.
    pub fn heal(&self) -> Result<()> {
        self.part(&[])
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.members.iter().position(|member| member == name).with_context(|| format!("no member {name} in {:?}", self.members))
    }

    fn join(&self, index: usize) -> Result<()> {
        let (namespace, member) = (self.namespace(index), self.member(&self.members[index])?);
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        for (link, inner, address) in
            [(self.link('n', index), "net0", member.address), (self.link('w', index), "watch0", member.watch_address)]
        {
            ip(&format!("link add {link} type veth peer name {inner} netns {namespace}"))?;
            ip(&format!("-n {namespace} addr add {address}/24 dev {inner}"))?;
            ip(&format!("-n {namespace} link set {inner} up"))?;
            ip(&format!("link set {link} up"))?;
        }
        self.put(index, 0)?;
        ip(&format!("link set {} master {}", self.link('w', index), self.watch_bridge()))
    }

    fn put(&self, index: usize, side: usize) -> Result<()> {
        ip(&format!("link set {} master {}", self.link('n', index), self.side(side)))
    }

    fn bridge(&self, name: &str) -> Result<()> {
        ip(&format!("link add {name} type bridge"))?;
        ip(&format!("link set {name} up"))
    }

    fn namespace(&self, index: usize) -> String {
        format!("{}m{index}", self.tag)
    }

    fn link(&self, kind: char, index: usize) -> String {
        format!("{}{kind}{index}", self.tag)
    }

    fn side(&self, side: usize) -> String {
        format!("{}s{side}", self.tag)
    }

    fn watch_bridge(&self) -> String {
        format!("{}t", self.tag)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // What could not be removed is swept by the next test; there is nobody to tell.
        let _ = remove(&self.tag);
    }
}

/// A network that no link of this machine has.
fn free_watch() -> Result<u8> {
    let first = std::process::id().to_le_bytes()[0];
    let taken = output(&["-o", "-4", "addr", "show"])?;
    let is_free = |third: &u8| !taken.contains(&format!("{}.{}.{third}.", WATCH[0], WATCH[1]));
    (0..=u8::MAX).map(|step| first.wrapping_add(step)).find(is_free).context("no network is free")
}

/// Removes what processes left behind that are gone.
fn sweep() -> Result<()> {
    for name in names()? {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let tag: String = name.chars().take(PREFIX.len() + digits.len() + 1).collect();
        if !digits.is_empty() && tag.len() > PREFIX.len() + digits.len() && !Path::new("/proc").join(&digits).exists() {
            remove(&tag)?;
        }
    }
    Ok(())
}

/// Removes every namespace and link whose name begins so. A namespace goes with its last process, the links between go at once.
fn remove(tag: &str) -> Result<()> {
    for link in links()?.iter().filter(|name| name.starts_with(tag)) {
        // It is gone already where it was one end of a pair.
        let _ = ip(&format!("link del {link}"));
    }
    for namespace in namespaces()?.iter().filter(|name| name.starts_with(tag)) {
        ip(&format!("netns del {namespace}"))?;
    }
    Ok(())
}

fn names() -> Result<Vec<String>> {
    Ok([links()?, namespaces()?].concat())
}

fn links() -> Result<Vec<String>> {
    let name = |line: &str| Some(line.split_whitespace().nth(1)?.split(['@', ':']).next()?.to_owned());
    Ok(output(&["-o", "link", "show"])?.lines().filter_map(name).collect())
}

fn namespaces() -> Result<Vec<String>> {
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    Ok(output(&["netns", "list"])?.lines().filter_map(first).collect())
}

fn ip(words: &str) -> Result<()> {
    output(&words.split(' ').collect::<Vec<_>>()).map(drop)
}

fn output(words: &[&str]) -> Result<String> {
    let run = Command::new("ip").args(words).output().context("running ip")?;
    ensure!(run.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&run.stderr).trim());
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}
