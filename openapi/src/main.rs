//! `openapi generate` writes the committed document, `openapi check` compares it with the routes.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<ExitCode> {
    let path = openapi::committed_path();
    let text = openapi::document_text()?;
    match std::env::args().nth(1).as_deref() {
        Some("generate") => {
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Some("check") => {
            let committed = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if committed == text {
                return Ok(ExitCode::SUCCESS);
            }
            let line = committed.lines().zip(text.lines()).position(|(old, new)| old != new).map_or(0, |index| index + 1);
            eprintln!("{} differs from the routes, first at line {line}; run `cargo run -p openapi -- generate`", path.display());
            Ok(ExitCode::FAILURE)
        }
        _ => bail!("usage: openapi generate | check"),
    }
}
