//! The tests beside this one are red when the witness has the bug that they are for.

use std::process::{Command, Stdio};

/// A bug, a test that has to notice it, and what it has to say.
const BUGS: [(&str, &str, &str); 4] = [
    ("witness-forgets", "restarts::what_was_acknowledged_is_remembered_across_a_restart", "left == right"),
    ("witness-blind", "table::a_lost_tail_is_put_back_as_it_was", "not noticed"),
    ("witness-blind", "history::one_writer", "lost in silence"),
    ("witness-heals-out-of-order", "table::a_lost_tail_is_put_back_as_it_was", "refused"),
];

#[test]
fn planted_bugs_are_noticed() {
    let running = BUGS.map(|(bug, test, finding)| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env("KEYRELAY_FAULT", bug).env("PROPTEST_MAX_SHRINK_ITERS", "0");
        (bug, finding, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    });
    for (bug, finding, child) in running {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("running 1 test"), "{text}");
        assert!(!output.status.success(), "{bug} was not noticed");
        assert!(text.to_lowercase().contains(finding), "{bug} was noticed as something else: {text}");
    }
}
