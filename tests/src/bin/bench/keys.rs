//! Many keys over the API of a node: created in bulk, paged, searched, and moved to another node.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Admin, Launch};

use super::process::peak_bytes;
use super::report::{line, percentile, row};
use super::{Options, moved};

/// Keys of one batch, the most there may be.
const BATCH: usize = 10_000;
const PAGE: usize = 1000;
/// Times that a page is asked for.
const REPEATS: usize = 20;

pub(crate) async fn measure(options: Options) -> Result<()> {
    line("")?;
    row("keys", "measured", "reach")?;
    let directory = tempfile::tempdir()?;
    let node = Launch::new(&directory.path().join("data")).with("KEYRELAY_LOG_LEVEL", "warn").start().await?;
    let (admin, keys) = (node.admin()?, options.keys);
    let rate = create(&admin, keys).await?;
    row(&format!("created in bulk, {keys} keys"), &format!("{:.1} k/s", rate / 1e3), ">= 10 k/s")?;
    row("peak memory of the node, MiB", &mebibytes(peak_bytes(node.pid())?), "<= 512 with 1 M")?;

    for (what, query) in [
        ("by id", "sort=id"),
        ("by name, from the end", "sort=name&order=desc"),
        ("by expiry, from a time on", "sort=expires_at&expires_after=2027-01-01T00:00:00Z"),
        ("by last use", "sort=last_used_at"),
        ("of a tag that one in a hundred has", "tag=t-7"),
        ("a name, part of which is searched", "search=77&sort=name"),
    ] {
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let begin = Instant::now();
            let page = page(&admin, &format!("{query}&limit=100")).await?;
            times.push(begin.elapsed());
            ensure!(page["keys"].as_array().is_some_and(|keys| !keys.is_empty()), "{query} found nothing");
        }
        row(&format!("first 100 keys {what}"), &format!("p50 {} ms", millis(percentile(&mut times, 0.5))), "<= 100 ms")?;
    }
    let (found, pages, longest, elapsed) = walk(&admin, "search=nobody-has-this&sort=name").await?;
    ensure!(found == 0, "{found} keys have a name that no key has");
    let figure = format!("{:.2} s, longest {} ms", elapsed.as_secs_f64(), millis(longest.as_secs_f64() * 1e6));
    row(&format!("a search that finds nothing, {pages} pages"), &figure, "<= 250 ms a page")?;
    let (found, pages, longest, elapsed) = walk(&admin, "sort=name").await?;
    ensure!(found == keys, "{found} of {keys} keys were met");
    let figure = format!("{:.1} k/s, longest {} ms", found as f64 / elapsed.as_secs_f64() / 1e3, millis(longest.as_secs_f64() * 1e6));
    row(&format!("paged through by name, {pages} pages of {PAGE}"), &figure, "<= 250 ms a page")?;
    row("peak memory of the node after that, MiB", &mebibytes(peak_bytes(node.pid())?), "<= 512 with 1 M")?;
    moved::measure(&node, directory.path(), keys as u64).await?;
    node.stop().await?;
    Ok(())
}

/// Creates keys, and gives how many a second.
async fn create(admin: &Admin, keys: usize) -> Result<f64> {
    let begin = Instant::now();
    for first in (0..keys).step_by(BATCH) {
        let key = json!({ "name": "ci-{n:07}", "tags": [format!("t-{}", first / BATCH % 100)], "expires_in": format!("{}d", 30 + first / BATCH) });
        let create = json!({ "create": { "count": BATCH.min(keys - first), "first": first, "key": key } });
        let mut answer = admin.open_once("/keys/batch", &create, &format!("bench-{first}")).await?;
        let mut end = Vec::new();
        while let Some(piece) = answer.next().await? {
            end.extend_from_slice(&piece);
            let held = end.len().saturating_sub(512);
            end.drain(..held);
        }
        let end = String::from_utf8_lossy(&end).lines().last().map(str::to_owned).context("an end")?;
        ensure!(end.contains("\"done\":true") && end.contains("\"failed\":0"), "{end}");
    }
    Ok(keys as f64 / begin.elapsed().as_secs_f64())
}

async fn page(admin: &Admin, query: &str) -> Result<Value> {
    admin.get(&format!("/keys?{query}")).await?.success()
}

/// All pages: how many keys, how many pages, the time of the longest, and of all.
async fn walk(admin: &Admin, query: &str) -> Result<(usize, usize, Duration, Duration)> {
    let (mut found, mut pages, mut longest, begin, mut cursor) = (0, 0, Duration::ZERO, Instant::now(), String::new());
    loop {
        let begin_page = Instant::now();
        let page = page(admin, &format!("{query}&limit={PAGE}{cursor}")).await?;
        longest = longest.max(begin_page.elapsed());
        pages += 1;
        found += page["keys"].as_array().map_or(0, Vec::len);
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok((found, pages, longest, begin.elapsed())),
        }
    }
}

fn millis(micros: f64) -> String {
    format!("{:.1}", micros / 1e3)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1048576.0)
}
