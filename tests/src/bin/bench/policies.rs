//! Policies by themselves: one evaluation, its fresh instance included, with so many loaded that take turns.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use policy_host::host::{CACHE_BYTES_DEFAULT, FAST_RESIDENT_BYTES_DEFAULT, FAST_SLOTS_DEFAULT};
use policy_host::{Compiler, Host, HostConfig, Input, Module};
use schemas::policy::{PolicyClass, PolicyKind};
use tests::{cli, policies};

use super::Options;
use super::questions::input;
use super::report::{line, median, percentile, row};

/// Of the fast class, in a round.
const EVALUATIONS: usize = 10_000;
const SLOW_EVALUATIONS: usize = 300;
/// The same policy under so many digests: code and data of each are its own.
const LOADED: [usize; 3] = [1, 10, 100];
/// Kind, stock policy and settings with which it has work to do.
const STOCK: [(PolicyKind, &str, &str); 3] = [
    (PolicyKind::Expiry, "expire-unused", r#"{"unused_days":30}"#),
    (PolicyKind::Quota, "money-quota", r#"{"day_microusd":1000000}"#),
    (PolicyKind::Route, "cheapest-healthy", r#"{"regions":["eu"]}"#),
];
const REACH: &str = "<= 12, <= 20";
const SLOW_SETTINGS: &str = r#"{"requests_per_day":100}"#;

/// Policies that are asked in turn, or one after the other as one decision.
struct Case {
    name: String,
    modules: Vec<(Arc<Module>, Input)>,
    is_chain: bool,
    evaluations: usize,
    reach: &'static str,
    rounds: Vec<Round>,
}

struct Round {
    p50_us: f64,
    p99_us: f64,
    /// Processor time of the thread per decision: what other work on the machine hardly touches.
    cpu_us: f64,
}

pub(crate) fn measure(options: Options) -> Result<()> {
    let (directory, untuned_directory) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let host = host(directory.path(), FAST_RESIDENT_BYTES_DEFAULT)?;
    let untuned = self::host(untuned_directory.path(), 0)?;
    let mut cases = Vec::new();
    let mut chain = Vec::new();
    for (kind, name, settings) in STOCK {
        let uploaded = std::fs::read(policies::stock()?.join(format!("{name}.wasm")))?;
        let load = |host: &Host, n: usize| {
            anyhow::Ok((host.admit(&distinct(&uploaded, n), kind, PolicyClass::Fast)?.module, input(kind, settings)))
        };
        for count in LOADED {
            let modules: Vec<_> = (0..count).map(|n| load(&host, n)).collect::<Result<_>>()?;
            chain.extend(modules.first().filter(|_| count == 1).cloned());
            cases.push(Case::new(format!("{}, {count} loaded", kind.as_str()), modules, EVALUATIONS, REACH));
        }
        if kind == PolicyKind::Quota {
            let name = "quota, 1 loaded, no memory kept resident".to_owned();
            cases.push(Case::new(name, vec![load(&untuned, 0)?], EVALUATIONS, "for comparison"));
        }
    }
    cases.push(Case { is_chain: true, ..Case::new("chain of three, one of each kind".into(), chain, EVALUATIONS, "") });
    for (language, build) in [("js", build_js as fn(&Path) -> Result<()>), ("python", build_python)] {
        let module = std::fs::read(template(directory.path(), language, build)?)?;
        let module = host.admit(&module, PolicyKind::Quota, PolicyClass::Slow)?.module;
        let asked = input(PolicyKind::Quota, SLOW_SETTINGS);
        cases.push(Case::new(format!("quota in {language}, class slow"), vec![(module, asked)], SLOW_EVALUATIONS, ""));
    }

    // The first round warms up and is not counted.
    for round in 0..=options.rounds {
        for case in &mut cases {
            let measured = case.round()?;
            if round > 0 {
                case.rounds.push(measured);
            }
        }
    }
    line("")?;
    line(host.engine_profile())?;
    row("one evaluation, fresh instance, us", "p50, p99", "reach; the quietest round; CPU; fuel, bytes of memory")?;
    cases.iter().try_for_each(Case::print)
}

fn host(directory: &Path, fast_resident_bytes: usize) -> Result<Host> {
    // In this process, because this program has no compiling child.
    let (cache, compiler) = (directory.join("code"), Compiler::InProcess);
    Ok(Host::new(HostConfig {
        cache,
        cache_bytes_max: CACHE_BYTES_DEFAULT,
        compiler,
        fast_slots: FAST_SLOTS_DEFAULT,
        fast_resident_bytes,
        slow_threads: 1,
    })?)
}

/// The same policy with another digest: a custom section at the end says which.
fn distinct(uploaded: &[u8], n: usize) -> Vec<u8> {
    let n = (n as u32).to_le_bytes();
    [uploaded, &[0, 6, 1, b'n'], &n].concat()
}

impl Case {
    fn new(name: String, modules: Vec<(Arc<Module>, Input)>, evaluations: usize, reach: &'static str) -> Self {
        Self { name, modules, is_chain: false, evaluations, reach, rounds: Vec::new() }
    }

    fn round(&self) -> Result<Round> {
        let mut times = Vec::with_capacity(self.evaluations);
        let before = processor_time()?;
        for n in 0..self.evaluations {
            let first = n % self.modules.len();
            let asked = if self.is_chain { self.modules.as_slice() } else { &self.modules[first..=first] };
            let begin = Instant::now();
            for (module, input) in asked {
                let evaluation = module.decide(input);
                ensure!(evaluation.result.is_ok(), "{}: {:?}", self.name, evaluation.result);
            }
            times.push(begin.elapsed());
        }
        let cpu_us = (processor_time()? - before).as_secs_f64() * 1e6 / self.evaluations as f64;
        Ok(Round { p50_us: percentile(&mut times, 0.5), p99_us: percentile(&mut times, 0.99), cpu_us })
    }

    fn print(&self) -> Result<()> {
        let of = |figure: fn(&Round) -> f64| self.rounds.iter().map(figure).collect::<Vec<_>>();
        let figure = format!("{:.1}, {:.1}", median(&of(|round| round.p50_us)), median(&of(|round| round.p99_us)));
        let quietest = self.rounds.iter().min_by(|one, other| one.p50_us.total_cmp(&other.p50_us)).context("a round")?;
        let (module, input) = self.modules.first().context("a policy")?;
        let evaluation = module.decide(input);
        let taken = format!(
            "quietest {:.1}, {:.1}; CPU {:.1}; fuel {}, {} KiB",
            quietest.p50_us,
            quietest.p99_us,
            median(&of(|round| round.cpu_us)),
            evaluation.fuel,
            evaluation.memory_bytes / 1024
        );
        row(&self.name, &figure, &format!("{:<15} {taken}", self.reach))
    }
}

/// How long this thread has run.
fn processor_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().context("no figure")?.parse()?))
}

/// The quota policy that `keyrelay policy new` writes in a language, built as its text says.
fn template(directory: &Path, language: &str, build: fn(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = directory.join(language);
    let words = ["policy", "new", language, "--kind", "quota", "--lang", language, "--dir"];
    cli::keyrelay(words.iter().map(|word| std::ffi::OsStr::new(*word)).chain([folder.as_os_str()]))?.expect(0)?;
    build(&folder)?;
    Ok(folder.join("policy.wasm"))
}

fn build_js(folder: &Path) -> Result<()> {
    // Instead of `npm install`.
    std::os::unix::fs::symlink(policies::tools()?.join("npm/node_modules"), folder.join("node_modules"))?;
    cli::run(Command::new("node").arg("build.mjs").current_dir(folder))?.expect(0)?;
    Ok(())
}

fn build_python(folder: &Path) -> Result<()> {
    let words = ["-d", "wit", "-w", "quota", "componentize", "policy", "-o", "policy.wasm", "--stub-wasi"];
    cli::run(Command::new(policies::tools()?.join("componentize-py/bin/componentize-py")).args(words).current_dir(folder))?.expect(0)?;
    Ok(())
}
