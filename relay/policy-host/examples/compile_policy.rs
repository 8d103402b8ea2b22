//! A program that does nothing but compile policies, as the child of a host: `compile_policy compile-policy --class CLASS`.
//!
//! The relay's own binary has the same sub-command; this one stands for it in this crate's tests.

use policy_host::{COMPILE_SUBCOMMAND, compile_child};
use schemas::policy::PolicyClass;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [COMPILE_SUBCOMMAND, "--class", "fast"] => compile_child(PolicyClass::Fast, std::io::stdin().lock(), std::io::stdout().lock()),
        [COMPILE_SUBCOMMAND, "--class", "slow"] => compile_child(PolicyClass::Slow, std::io::stdin().lock(), std::io::stdout().lock()),
        _ => Err(std::io::Error::other("expected: compile-policy --class fast|slow")),
    }
}
