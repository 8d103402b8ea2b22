//! A node whose settings name a file that it must not use.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use tests::cli;

#[test]
fn a_leak_secret_that_others_can_read_stops_the_start_before_anything_is_founded() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (data, secret) = (directory.path().join("data"), directory.path().join("leak.secret"));
    std::fs::write(&secret, "qTz7v5hU2kLw9XyBn4Rc8sEa\n")?;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644))?;
    let mut serve = cli::command("keyrelay")?;
    serve.args(["serve", "--relay-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).arg("--data").arg(&data);
    let run = cli::run(serve.env("KEYRELAY_CONTROL_LEAK_SECRET_FILE", &secret))?.expect(2)?;
    ensure!(run.stderr.contains("leak.secret") && !run.stderr.contains("essential task"), "{}", run.stderr);
    ensure!(!data.join("root.key").exists(), "something was founded");
    Ok(())
}
