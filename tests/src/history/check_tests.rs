//! Bad histories, planted one by one into a good one: each is found for what it is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::history::Read;

fn at(millis: u64) -> Moment {
    Moment::from_millis(millis)
}

fn record(sequence: u64, key: &str, version: u64, command: &str, event: &str) -> Record {
    Record { sequence, void: None, stream: stream_of(key), version, command: command.to_owned(), events: vec![event.to_owned()] }
}

fn write(name: &str, event: &'static str, key: &str, invoked: u64, answered: (u64, u64, u64)) -> Write {
    let (at_millis, sequence, version) = answered;
    let outcome = Outcome::Acknowledged { at: at(at_millis), sequence, version };
    Write { name: name.to_owned(), event, key: Some(key.to_owned()), expected: None, invoked: at(invoked), outcome }
}

fn request(key: &str, sent: u64, status: u16) -> Request {
    let reason = if status == 401 { "key_revoked" } else { "" }.to_owned();
    Request { node: 0, key: key.to_owned(), sent: at(sent), answered: at(sent + 5), status, reason }
}

/// Two keys; the first is renewed and then revoked, and each is used.
fn good() -> (History, Settled) {
    let mut history = History {
        writes: vec![
            write("a", "KeyCreated", "one", 0, (10, 1, 1)),
            write("b", "KeyCreated", "two", 0, (12, 2, 1)),
            Write { expected: Some(1), ..write("c", "KeyRenewed", "one", 20, (30, 3, 2)) },
            write("d", "KeyRevoked", "one", 40, (50, 4, 3)),
        ],
        reads: vec![Read { node: 1, key: "one".to_owned(), version: 2, shown: Some(2) }],
        requests: vec![request("one", 15, 200), request("two", 15, 200), request("one", 45, 401), request("one", 55, 401)],
        fences: BTreeMap::from([("one".to_owned(), at(50))]),
    };
    // The loser of a race for the version that the renewal took, and one that nobody heard of again.
    history.writes.push(Write { outcome: Outcome::Refused { status: 412 }, ..history.writes[2].clone() });
    history.writes.push(Write { key: None, outcome: Outcome::Unknown, ..write("e", "KeyCreated", "", 60, (0, 0, 0)) });
    let records = vec![
        record(1, "one", 1, "a", "KeyCreated"),
        record(2, "two", 1, "b", "KeyCreated"),
        record(3, "one", 2, "c", "KeyRenewed"),
        record(4, "one", 3, "d", "KeyRevoked"),
        record(5, "three", 1, "e", "KeyCreated"),
    ];
    let used = Used { requests: 1, input_tokens: 4, output_tokens: 5 };
    let usage = BTreeMap::from([("one".to_owned(), used), ("two".to_owned(), used)]);
    let view = |name: &str| View {
        name: name.to_owned(),
        records: records.clone(),
        position: 5,
        root: Some("root".to_owned()),
        usage: Some(usage.clone()),
    };
    let kept = View { usage: None, ..view("kept") };
    let counted = Counted { requests: 2, input_tokens: 8, output_tokens: 10, ..Counted::default() };
    (history, Settled { views: vec![view("node0"), view("node1"), kept], counted: Some(counted) })
}

/// Plants one wrong thing and gives the kinds that are found.
fn found(plant: impl FnOnce(&mut History, &mut Settled)) -> Vec<Kind> {
    let (mut history, mut settled) = good();
    plant(&mut history, &mut settled);
    let mut kinds: Vec<Kind> = check(&history, &settled).into_iter().map(|finding| finding.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn everywhere(settled: &mut Settled, change: impl Fn(&mut View)) {
    settled.views.iter_mut().for_each(change);
}

#[test]
fn a_good_history_is_sound() {
    assert_eq!(found(|_, _| {}), []);
    let (history, settled) = good();
    assert!(settled.expect_sound(&history).is_ok());
    assert_eq!(history.acknowledged(), 4);
}

#[test]
fn an_acknowledged_record_that_is_lost_everywhere_is_found() {
    let lost = |_: &mut History, settled: &mut Settled| {
        everywhere(settled, |view| {
            view.records.truncate(3);
            view.position = 3;
        });
    };
    assert_eq!(found(lost), [Kind::Lost]);
}

#[test]
fn an_acknowledged_record_that_one_node_does_not_show_is_found() {
    assert_eq!(found(|_, settled| settled.views[1].records.truncate(3)), [Kind::Lost, Kind::Differ]);
}

#[test]
fn an_acknowledged_record_that_is_void_is_found() {
    let void = |_: &mut History, settled: &mut Settled| {
        everywhere(settled, |view| view.records[3].void = Some("version".to_owned()));
    };
    assert_eq!(found(void), [Kind::Lost]);
}

#[test]
fn another_record_in_the_place_of_an_acknowledged_one_is_found() {
    let other =
        |_: &mut History, settled: &mut Settled| everywhere(settled, |view| view.records[1] = record(2, "four", 1, "x", "KeyCreated"));
    assert_eq!(found(other), [Kind::Lost]);
}

#[test]
fn a_command_that_is_there_twice_is_found() {
    let twice = |_: &mut History, settled: &mut Settled| {
        everywhere(settled, |view| {
            view.records.push(record(6, "two", 2, "b", "KeyCreated"));
            view.position = 6;
        });
    };
    assert_eq!(found(twice), [Kind::Twice]);
}

#[test]
fn two_records_of_one_version_are_found() {
    let winners = |_: &mut History, settled: &mut Settled| {
        everywhere(settled, |view| {
            view.records.push(record(6, "two", 1, "f", "KeyRenewed"));
            view.position = 6;
        });
    };
    assert_eq!(found(winners), [Kind::TwoWinners]);
}

#[test]
fn two_answers_for_one_version_are_found() {
    let expected = |history: &mut History, _: &mut Settled| {
        history.writes[4].outcome = history.writes[2].outcome.clone();
        history.writes[4].name = "g".to_owned();
    };
    assert_eq!(found(expected), [Kind::TwoWinners]);
    let given = |history: &mut History, _: &mut Settled| history.writes.push(write("g", "KeyCreated", "two", 0, (12, 2, 1)));
    assert_eq!(found(given), [Kind::TwoWinners]);
}

#[test]
fn two_acknowledged_on_one_expected_version_are_found_whatever_they_were_given() {
    let both = |history: &mut History, settled: &mut Settled| {
        history.writes.push(Write { expected: Some(1), ..write("g", "KeyRenewed", "one", 20, (65, 6, 4)) });
        everywhere(settled, |view| {
            view.records.push(record(6, "one", 4, "g", "KeyRenewed"));
            view.position = 6;
        });
    };
    assert_eq!(found(both), [Kind::TwoWinners]);
}

#[test]
fn holes_are_found() {
    let sequence = |_: &mut History, settled: &mut Settled| everywhere(settled, |view| view.records[4].sequence = 6);
    assert_eq!(found(sequence), [Kind::Gap]);
    let version = |_: &mut History, settled: &mut Settled| everywhere(settled, |view| view.records[4].version = 2);
    assert_eq!(found(version), [Kind::Gap]);
}

#[test]
fn nodes_that_show_different_logs_are_found() {
    assert_eq!(found(|_, settled| settled.views[1].records[4].command = "x".to_owned()), [Kind::Differ]);
    assert_eq!(found(|_, settled| settled.views[1].root = Some("other".to_owned())), [Kind::Differ]);
    assert_eq!(found(|_, settled| settled.views[1].position = 4), [Kind::Differ]);
    assert_eq!(found(|_, settled| settled.views[1].records[4].void = Some("bad_signature".to_owned())), [Kind::Differ]);
}

#[test]
fn an_order_that_is_not_that_of_the_answers_is_found() {
    let reordered = |history: &mut History, settled: &mut Settled| {
        history.writes[2].outcome = Outcome::Acknowledged { at: at(30), sequence: 4, version: 2 };
        history.writes[3].outcome = Outcome::Acknowledged { at: at(50), sequence: 3, version: 3 };
        everywhere(settled, |view| {
            view.records.swap(2, 3);
            view.records[2].sequence = 3;
            view.records[3].sequence = 4;
        });
    };
    // Its stream is out of order too.
    assert_eq!(found(reordered), [Kind::TwoWinners, Kind::Gap, Kind::Order]);
    let other_streams = |history: &mut History, settled: &mut Settled| {
        history.writes.swap_remove(1);
        history.writes.push(write("b", "KeyCreated", "two", 55, (58, 2, 1)));
        settled.counted = None;
    };
    assert_eq!(found(other_streams), [Kind::Order]);
}

#[test]
fn writes_that_overlap_may_stand_in_any_order() {
    let overlapping = |history: &mut History, settled: &mut Settled| {
        history.writes[0].outcome = Outcome::Acknowledged { at: at(10), sequence: 2, version: 1 };
        history.writes[1].outcome = Outcome::Acknowledged { at: at(12), sequence: 1, version: 1 };
        everywhere(settled, |view| {
            view.records.swap(0, 1);
            view.records[0].sequence = 1;
            view.records[1].sequence = 2;
        });
    };
    assert_eq!(found(overlapping), []);
}

#[test]
fn a_read_that_does_not_see_what_it_waited_for_is_found() {
    assert_eq!(found(|history, _| history.reads[0].shown = Some(1)), [Kind::StaleRead]);
    assert_eq!(found(|history, _| history.reads[0].shown = None), []);
}

#[test]
fn a_key_that_is_served_behind_the_fence_is_found() {
    let served = |history: &mut History, settled: &mut Settled| {
        history.requests[3].status = 200;
        settled.counted = None;
    };
    assert_eq!(found(served), [Kind::ServedAfterFence]);
}

#[test]
fn a_relay_request_that_fails_is_found() {
    let failed = |place: usize, status: u16| {
        move |history: &mut History, settled: &mut Settled| {
            history.requests[place] = Request { status, ..history.requests[place].clone() };
            settled.counted = None;
        }
    };
    assert_eq!(found(failed(1, 503)), [Kind::RelayFailed]);
    assert_eq!(found(failed(1, 0)), [Kind::RelayFailed]);
    assert_eq!(found(failed(3, 503)), [Kind::RelayFailed]);
    let too_early = |history: &mut History, _: &mut Settled| history.requests.push(request("one", 20, 401));
    assert_eq!(found(too_early), [Kind::RelayFailed]);
}

#[test]
fn usage_that_is_lost_or_counted_twice_is_found() {
    assert_eq!(found(|_, settled| settled.views[1].usage.as_mut().unwrap().clear()), [Kind::Usage]);
    let twice = |_: &mut History, settled: &mut Settled| {
        settled.views[0].usage.as_mut().unwrap().get_mut("two").unwrap().requests = 2;
    };
    assert_eq!(found(twice), [Kind::Usage]);
    assert_eq!(found(|_, settled| settled.views[0].usage.as_mut().unwrap().get_mut("one").unwrap().input_tokens -= 1), [Kind::Usage]);
}
