//! What is checked on every output, so that a policy can only narrow, and so that nothing unbounded or undeclared leaves this crate.
//!
//! A failed check is a fault, never "best effort". The one exception is an expiry later than the host's own, which is simply the host's own.

use std::collections::BTreeSet;

use crate::contract::{Advice, Effect, Fault, Obligation, Verdict, expiry, quota, route};
use crate::limits::{
    ADVICE_MAX, NAME_BYTES_MAX, OBLIGATIONS_MAX, OUTPUT_BYTES_MAX, PICK_BYTES_MAX, RANK_MAX, REASONS_MAX, TEXT_BYTES_MAX, WEIGHT_MAX,
};
use crate::manifest::is_text;
use crate::{Input, InvalidOutput, Manifest, Output};

/// The output as it counts, or what is wrong with it.
pub(crate) fn check(manifest: &Manifest, input: &Input, output: Output) -> Result<Output, InvalidOutput> {
    let candidates = if let Input::Route(input) = input { input.candidates.len() } else { 0 };
    if output.encoded_bytes() > OUTPUT_BYTES_MAX + candidates * PICK_BYTES_MAX {
        return Err(InvalidOutput::TooLarge);
    }
    verdict(manifest, output.verdict())?;
    match (input, output) {
        (Input::Route(input), Output::Route(output)) => route(input, &output).map(|()| Output::Route(output)),
        (Input::Quota(input), Output::Quota(output)) => quota(input, &output).map(|()| Output::Quota(output)),
        (Input::Expiry(input), Output::Expiry(output)) => expiry(input, output).map(Output::Expiry),
        // One call asks and answers in one kind.
        (Input::Route(_) | Input::Quota(_) | Input::Expiry(_), _) => Err(InvalidOutput::Abi),
    }
}

fn verdict(manifest: &Manifest, verdict: &Verdict) -> Result<(), InvalidOutput> {
    let is_too_much =
        verdict.reasons.len() > REASONS_MAX || verdict.obligations.len() > OBLIGATIONS_MAX || verdict.advice.len() > ADVICE_MAX;
    if is_too_much {
        return Err(InvalidOutput::TooLarge);
    }
    if !manifest.effects.contains(&verdict.effect) {
        return Err(InvalidOutput::UndeclaredEffect);
    }
    for reason in &verdict.reasons {
        if !manifest.reasons.iter().any(|declared| declared.code == reason.code) {
            return Err(InvalidOutput::UndeclaredReason);
        }
        if let Some(shown) = &reason.text {
            text(shown)?;
        }
    }
    // Only a permit has conditions; a policy with nothing to say, or a refusal, that carried some would be no such thing.
    if verdict.effect != Effect::Permit && !verdict.obligations.is_empty() {
        return Err(InvalidOutput::Contradiction);
    }
    for obligation in &verdict.obligations {
        let kind = match obligation {
            Obligation::CapOutput(_) => "cap_output",
            Obligation::CapParallel(_) => "cap_parallel",
            Obligation::TagUsage(tag) => {
                name(&tag.name)?;
                name(&tag.value)?;
                "tag_usage"
            }
            Obligation::PinRegion(region) => {
                name(region)?;
                "pin_region"
            }
        };
        if !manifest.obligations.iter().any(|declared| declared == kind) {
            return Err(InvalidOutput::UndeclaredObligation);
        }
    }
    for advice in &verdict.advice {
        let kind = match advice {
            Advice::RotateKeyBy(_) => "rotate_key_by",
            Advice::Warn(warning) => {
                text(warning)?;
                "warn"
            }
        };
        if !manifest.advice.iter().any(|declared| declared == kind) {
            return Err(InvalidOutput::UndeclaredAdvice);
        }
    }
    Ok(())
}

fn route(input: &route::Input, output: &route::Output) -> Result<(), InvalidOutput> {
    if output.verdict.effect != Effect::Permit && !output.picks.is_empty() {
        return Err(InvalidOutput::Contradiction);
    }
    let candidates: BTreeSet<&str> = input.candidates.iter().map(|candidate| candidate.id.as_str()).collect();
    let mut seen = BTreeSet::new();
    for pick in &output.picks {
        if !candidates.contains(pick.id.as_str()) {
            return Err(InvalidOutput::UnknownCandidate);
        }
        if !seen.insert(pick.id.as_str()) {
            return Err(InvalidOutput::RepeatedCandidate);
        }
        if pick.rank > RANK_MAX || pick.weight > WEIGHT_MAX {
            return Err(InvalidOutput::OutOfRange);
        }
    }
    Ok(())
}

fn quota(input: &quota::Input, output: &quota::Output) -> Result<(), InvalidOutput> {
    let is_denial = output.verdict.effect == Effect::Deny;
    let is_permit = output.verdict.effect == Effect::Permit;
    if (output.retry_ms.is_some() && !is_denial) || (!output.reserve.is_empty() && !is_permit) {
        return Err(InvalidOutput::Contradiction);
    }
    if output.retry_ms.is_some_and(|retry_ms| retry_ms > RETRY_MS_MAX) {
        return Err(InvalidOutput::OutOfRange);
    }
    let mut seen = BTreeSet::new();
    for charge in &output.reserve {
        if !input.meters.iter().any(|meter| meter.name == charge.meter) {
            return Err(InvalidOutput::UnknownMeter);
        }
        if !seen.insert(charge.meter.as_str()) {
            return Err(InvalidOutput::RepeatedMeter);
        }
        if charge.amount > CHARGE_MAX {
            return Err(InvalidOutput::OutOfRange);
        }
    }
    Ok(())
}

fn expiry(input: &expiry::Input, mut output: expiry::Output) -> Result<expiry::Output, InvalidOutput> {
    if output.verdict.effect != Effect::Permit && output.valid_until_ms.is_some() {
        return Err(InvalidOutput::Contradiction);
    }
    output.valid_until_ms = match (output.valid_until_ms, input.key.expires_ms) {
        (Some(policy), Some(host)) => Some(policy.min(host)),
        (until, _) => until,
    };
    Ok(output)
}

/// A year: who is told to come back later than that is told nonsense.
const RETRY_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// A charge that sums of many requests cannot overflow.
const CHARGE_MAX: u64 = 1 << 48;

fn text(text: &str) -> Result<(), InvalidOutput> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(InvalidOutput::TooLarge);
    }
    if is_text(text, TEXT_BYTES_MAX) { Ok(()) } else { Err(InvalidOutput::Text) }
}

/// Names reach usage records and labels: short, printable ASCII without spaces around.
fn name(name: &str) -> Result<(), InvalidOutput> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| (b' '..=b'~').contains(&b)) && name.trim() == name;
    if is_name { Ok(()) } else { Err(InvalidOutput::Text) }
}

/// A declared fault, cut and without control characters: its words go to operators and records.
pub(crate) fn shown_fault(fault: Fault) -> Fault {
    let shown = |text: &str, max: usize| text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect();
    Fault { code: shown(&fault.code, NAME_BYTES_MAX), detail: shown(&fault.detail, TEXT_BYTES_MAX) }
}

#[cfg(test)]
mod adversarial;
