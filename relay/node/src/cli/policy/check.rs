//! `keyrelay policy check`: what a node would say to a module.

use clap::Args;
use policy_host::limits::Limits;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::Output;
use super::super::render;
use super::module_file::{ModuleArgs, chain};
use super::schema;
use super::workbench::CodeFolder;

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    module: ModuleArgs,
}

pub(super) fn run(args: &Check, folder: &CodeFolder, output: &mut Output) -> Result<(), Failure> {
    let candidate = args.module.read(None, None)?;
    let (kind, class) = (candidate.kind, candidate.class);
    let trial = match candidate.admit(folder)? {
        Ok(trial) => trial,
        Err(error) => {
            let answer = json!({ "ok": false, "kind": kind, "class": class, "refused": chain(&error) });
            output.answer(&answer, |_| format!("REFUSED  {}", chain(&error)))?;
            return Err(Failure::Findings);
        }
    };
    let admitted = &trial.admitted;
    let answer = json!({
        "ok": true,
        "kind": kind,
        "class": class,
        "digest": admitted.digest,
        "is_wrapped": admitted.digest != admitted.uploaded_digest,
        "bytes": admitted.component.len(),
        "bytes_max": Limits::of(class).component_bytes_max,
        "uploaded_bytes": trial.uploaded_bytes,
        "engine": trial.bench.host.engine_profile(),
        "manifest": admitted.manifest,
    });
    output.answer(&answer, text)
}

fn text(answer: &Value) -> String {
    let fields = [
        ("digest", "/digest"),
        ("kind", "/kind"),
        ("class", "/class"),
        ("bytes", "/bytes"),
        ("of at most", "/bytes_max"),
        ("name", "/manifest/name"),
        ("version", "/manifest/version"),
        ("says of itself", "/manifest/description"),
        ("effects", "/manifest/effects"),
        ("reasons", "/manifest/reasons"),
        ("obligations", "/manifest/obligations"),
        ("advice", "/manifest/advice"),
        ("meters", "/manifest/meters"),
        ("asks for price", "/manifest/asks_for_price"),
    ];
    format!("{}\n{}\ngood: a node takes it", render::block(answer, &fields), schema::text(&answer["manifest"]["settings"]))
}
