//! What one evaluation costs, instance included, with 1, 10 and 100 policies loaded that take turns.
//!
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo run -p policy_host --example bench -- KIND CLASS POLICY.wasm [ROUNDS]`: this crate's own part is most
//! of the time without optimisation. The policies are one module with different names in it: code, image and slots of each are its own.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use policy_host::contract::{Demand, Price, Subject, expiry, quota, route};
use policy_host::{Compiler, Host, HostConfig, Input, Module};
use schemas::policy::{PolicyClass, PolicyKind};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, class, path, rest @ ..] = arguments.as_slice() else { anyhow::bail!("KIND CLASS POLICY.wasm [ROUNDS]") };
    let kind = PolicyKind::ALL.into_iter().find(|known| known.as_str() == kind).context("no such kind")?;
    let class = [PolicyClass::Fast, PolicyClass::Slow].into_iter().find(|known| known.as_str() == class).context("no such class")?;
    let rounds: usize = rest.first().map_or(Ok(20_000), |rounds| rounds.parse())?;
    let uploaded = std::fs::read(path)?;

    let cache = tempfile::tempdir()?;
    let host = Host::new(HostConfig {
        cache: cache.path().to_owned(),
        compiler: Compiler::InProcess,
        fast_slots: policy_host::host::FAST_SLOTS_DEFAULT,
        slow_threads: policy_host::host::SLOW_THREADS_DEFAULT,
    })?;
    println!("{}", host.engine_profile());
    let input = input(kind);
    println!("{} policy of class {}, {} bytes, input of {} bytes", kind.as_str(), class.as_str(), uploaded.len(), input.encoded_bytes());
    for count in if class == PolicyClass::Fast { [1, 10, 100].as_slice() } else { &[1] } {
        let modules: Vec<_> = (0..*count).map(|n| Ok(host.admit(&distinct(&uploaded, n), kind, class)?.module)).collect::<Result<_>>()?;
        measure(&modules, &input, rounds)?;
    }
    Ok(())
}

/// The same policy with another digest: a custom section at the end says which.
fn distinct(uploaded: &[u8], n: u32) -> Vec<u8> {
    let [a, b, c, d] = n.to_le_bytes();
    [uploaded, &[0, 6, 1, b'n', a, b, c, d]].concat()
}

fn measure(modules: &[std::sync::Arc<Module>], input: &Input, rounds: usize) -> Result<()> {
    let mut times = Vec::with_capacity(rounds);
    let mut fuel = 0;
    let mut ran = Duration::ZERO;
    for n in 0..rounds + rounds / 10 {
        let module = &modules[n % modules.len()];
        let start = Instant::now();
        let evaluation = module.decide(input);
        let elapsed = start.elapsed();
        ensure!(evaluation.result.is_ok(), "{:?}", evaluation.result);
        fuel = evaluation.fuel;
        // The first tenth warms up.
        if n == rounds / 10 {
            ran = processor_time()?;
        }
        if n >= rounds / 10 {
            times.push(elapsed);
        }
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let mean = (processor_time()? - ran) / u32::try_from(times.len())?;
    println!(
        "{:>4} policies: p50 {:?}, p99 {:?}, p99.9 {:?}, mean processor time {mean:?}, fuel {fuel}",
        modules.len(),
        at(0.5),
        at(0.99),
        at(0.999),
    );
    Ok(())
}

/// How long this thread has run: a figure that other work on the machine hardly touches.
fn processor_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().context("no figure")?.parse()?))
}

/// What a small tenant asks: three candidates, two meters.
fn input(kind: PolicyKind) -> Input {
    let subject =
        Subject { tenant: "default".into(), key: "key_mfrggzdfmztwq2lknnwg23tpob".into(), tags: vec!["ci".into()], ..Subject::default() };
    // What the stock policies must be told; one that wants other settings answers with a fault, which ends the measurement.
    let settings = if kind == PolicyKind::Expiry { r#"{"unused_days":30}"# } else { "{}" };
    let (now_ms, seed, settings, more) = (1_800_000_000_000, 7, settings.to_owned(), vec![]);
    let demand = || Demand {
        dialect: "openai".into(),
        endpoint: "chat_completions".into(),
        model: "small-1".into(),
        request_bytes: 900,
        input_tokens: 225,
        output_tokens_max: Some(1000),
        ..Demand::default()
    };
    let price = |n: u64| Price { input: 100 * n, output: 400 * n, cache_read: 10, cache_write: 20 };
    match kind {
        PolicyKind::Route => {
            let candidate = |n: u32| route::Candidate {
                id: format!("up_{n}frggzdfmztwq2lknnwg23tpo"),
                name: format!("upstream {n}"),
                pool: "pool_mfrggzdfmztwq2lknnwg23tpob".into(),
                pool_name: "default".into(),
                region: Some("eu".into()),
                tags: vec![],
                priority: n,
                weight: 100,
                is_cooling: false,
                in_flight: 2,
                latency_ms: Some(120),
                price: Some(price(u64::from(n) + 1)),
                more: vec![],
            };
            Input::Route(route::Input {
                now_ms,
                seed,
                settings,
                subject,
                demand: demand(),
                candidates: (0..3).map(candidate).collect(),
                more,
            })
        }
        PolicyKind::Quota => {
            let meter = |name: &str, unit| quota::Meter { name: name.into(), unit, used: 9, reserved: 1, resets_ms: Some(now_ms + 1) };
            let meters = vec![meter("key.tokens.day", quota::Unit::Tokens), meter("key.micro_usd.day", quota::Unit::MicroUsd)];
            Input::Quota(quota::Input {
                now_ms,
                seed,
                settings,
                subject,
                demand: demand(),
                meters,
                cost_max: Some(5000),
                chosen: None,
                more,
            })
        }
        PolicyKind::Expiry => {
            let key =
                expiry::KeyFacts { created_ms: 1, last_used_ms: Some(2), expires_ms: Some(now_ms + 9), ..expiry::KeyFacts::default() };
            Input::Expiry(expiry::Input { now_ms, seed, settings, subject, key, more })
        }
    }
}
