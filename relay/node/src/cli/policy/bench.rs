//! `keyrelay policy bench`: what a decision costs, and the room that the class leaves.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use policy_host::limits::{Limits, OUTPUT_BYTES_MAX, input_bytes_max};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::Output;
use super::super::render;
use super::run::Question;
use super::vectors::told;
use super::workbench::CodeFolder;

/// Evaluations before those that count: code and pages are touched for the first time.
const WARM_UP_SHARE: u32 = 10;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    question: Question,
    /// Evaluations that count, each in an instance of its own
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    runs: u32,
}

pub(super) fn run(args: &Bench, folder: &CodeFolder, output: &mut Output) -> Result<(), Failure> {
    let (trial, input) = args.question.ask(folder, output)?;
    let (module, limits) = (&trial.admitted.module, Limits::of(trial.admitted.module.class()));
    for _ in 0..args.runs.div_ceil(WARM_UP_SHARE) {
        module.decide(&input);
    }
    let mut times = Vec::new();
    let (mut fuel, mut memory_bytes, mut output_bytes) = (0, 0, 0);
    for _ in 0..args.runs {
        let evaluation = module.decide(&input);
        match &evaluation.result {
            Ok(decided) => output_bytes = decided.encoded_bytes(),
            Err(fault) => {
                output.note(&format!("error: the policy ends in the fault {}", told(fault)));
                return Err(Failure::Findings);
            }
        }
        fuel = fuel.max(evaluation.fuel);
        memory_bytes = memory_bytes.max(evaluation.memory_bytes);
        times.push(evaluation.elapsed);
    }
    times.sort_unstable();
    let at = |per_mille: usize| times.get((times.len() - 1) * per_mille / 1000).copied().context("at least one run");
    let answer = json!({
        "digest": trial.admitted.digest,
        "class": module.class(),
        "runs": args.runs,
        "p50_us": micros(at(500)?),
        "p99_us": micros(at(990)?),
        "max_us": micros(at(1000)?),
        "time_max_us": micros(limits.time_max),
        "fuel": fuel,
        "fuel_max": limits.fuel,
        "fuel_room": times_over(limits.fuel, fuel),
        "memory_bytes": memory_bytes,
        "memory_bytes_max": limits.memory_bytes_max,
        "component_bytes": trial.admitted.component.len(),
        "component_bytes_max": limits.component_bytes_max,
        "input_bytes": input.encoded_bytes(),
        "input_bytes_max": input_bytes_max(module.kind()),
        "output_bytes": output_bytes,
        "output_bytes_max": OUTPUT_BYTES_MAX,
    });
    output.answer(&answer, text)
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// How many times what is used is in what may be used.
fn times_over(most: u64, used: u64) -> u64 {
    most / used.max(1)
}

fn text(answer: &Value) -> String {
    let of = |used: &str, most: &str| format!("{} of at most {}", answer[used], answer[most]);
    let room = answer["fuel_room"].as_u64().unwrap_or_default();
    let advice = if room < 4 { ": too little, honest inputs may be larger than this one" } else { "" };
    render::pairs(&[
        ("evaluations", format!("{}, each in a fresh instance, class {}", answer["runs"], render::cell(Some(&answer["class"])))),
        ("p50", format!("{} us", answer["p50_us"])),
        ("p99", format!("{} us", answer["p99_us"])),
        ("max", format!("{} us, stopped at {} us", answer["max_us"], answer["time_max_us"])),
        ("fuel", of("fuel", "fuel_max")),
        ("room", format!("{room} times this fuel{advice}")),
        ("memory bytes", of("memory_bytes", "memory_bytes_max")),
        ("module bytes", of("component_bytes", "component_bytes_max")),
        ("input bytes", of("input_bytes", "input_bytes_max")),
        ("output bytes", of("output_bytes", "output_bytes_max")),
    ])
}
