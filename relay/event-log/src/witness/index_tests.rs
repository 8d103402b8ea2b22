#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const WINDOW: u64 = 10;
const OURS: u8 = 1;
const THEIRS: u8 = 2;

fn print(sequence: u64, writer: u8, seen: u64) -> Print {
    let digest = Digest::blake3(&[sequence.to_be_bytes().as_slice(), &[writer]].concat());
    Print { sequence: Sequence(sequence), digest, seen: Some((WriterId::from_bytes([writer; 16]), Sequence(seen))) }
}

fn note(index: &mut Index, print: &Print, is_own: bool) -> Noted {
    index.note(print, is_own, &mut Vec::new())
}

fn sequences(index: &Index) -> Vec<u64> {
    index.all().into_iter().map(|(sequence, _)| sequence.0).collect()
}

#[test]
fn a_place_keeps_its_record() {
    let mut index = Index::new(WINDOW);
    let ours = print(5, OURS, 0);
    assert_eq!(note(&mut index, &ours, false), Noted::New);
    assert_eq!(note(&mut index, &ours, false), Noted::Known);
    assert_eq!(note(&mut index, &ours, true), Noted::New, "it turns out to be our own");
    assert_eq!(note(&mut index, &ours, true), Noted::Known);
    assert_eq!(note(&mut index, &print(5, THEIRS, 0), false), Noted::Contradicts);
    assert_eq!(index.get(Sequence(5)), Some(ours.digest));
}

#[test]
fn what_is_forgotten_is_said_once_and_is_what_a_restart_forgets() {
    let mut index = Index::new(WINDOW);
    let (mut rows, mut forgotten) = (Vec::new(), Vec::new());
    for sequence in 1..=60 {
        let is_own = sequence % 3 == 0;
        let seen = if sequence == 50 { 20 } else { 0 };
        let print = print(sequence, if is_own { OURS } else { THEIRS }, seen);
        assert_eq!(index.note(&print, is_own, &mut forgotten), Noted::New);
        rows.push((print, is_own));
    }
    // The first of all, our own after the place that the others have seen, and the window.
    let expected: Vec<u64> = [1, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48].into_iter().chain(51..=60).collect();
    assert_eq!(sequences(&index), expected);
    rows.retain(|(print, _)| !forgotten.contains(&print.sequence));
    assert_eq!(rows.len(), expected.len());
    forgotten.sort();
    forgotten.dedup();
    assert_eq!(forgotten.len(), 60 - expected.len());
}

#[test]
fn a_restart_remembers_the_same() {
    let mut rows: Vec<_> =
        (1..=60).map(|sequence| (print(sequence, if sequence == 58 { THEIRS } else { OURS }, 40), sequence != 58)).collect();
    rows.retain(|(print, _)| print.sequence == FIRST || print.sequence > Sequence(35));
    let (index, forgotten) = Index::load(WINDOW, &rows);
    assert_eq!(sequences(&index), [1].into_iter().chain(41..=60).collect::<Vec<_>>());
    assert_eq!(forgotten, (36..=40).map(Sequence).collect::<Vec<_>>());
}

#[test]
fn everything_is_checked_once_after_a_reconnect() {
    let mut index = Index::new(WINDOW);
    note(&mut index, &print(2, OURS, 0), true);
    note(&mut index, &print(3, THEIRS, 0), false);
    for sequence in 80..=90 {
        note(&mut index, &print(sequence, OURS, 0), true);
    }
    assert_eq!(index.unchecked(), None, "nothing was heard of the log");
    index.heard(Sequence(100));
    let mut checked = Vec::new();
    while let Some(next) = index.unchecked() {
        checked.push(next.0);
        index.check(next, next);
    }
    assert_eq!(checked, [1, 2, 80].into_iter().chain(91..=100).collect::<Vec<_>>());
    index.check(Sequence(101), Sequence(120));
    index.heard(Sequence(121));
    assert_eq!(index.unchecked(), Some(Sequence(121)), "what a reader saw is checked");
    index.check(Sequence(150), Sequence(160));
    assert_eq!(index.unchecked(), Some(Sequence(121)), "what lies between was not seen");
    index.recheck();
    assert_eq!(index.unchecked(), Some(FIRST));
}

#[test]
fn an_acknowledgement_far_ahead_is_in_order() {
    let mut index = Index::new(WINDOW);
    for sequence in 1..=20 {
        note(&mut index, &print(sequence, OURS, 0), true);
    }
    note(&mut index, &print(21, THEIRS, 0), false);
    index.heard(Sequence(1000));
    note(&mut index, &print(500, OURS, 0), true);
    assert!(sequences(&index).is_sorted());
    assert_eq!(index.last(), Sequence(500));
    note(&mut index, &print(991, THEIRS, 0), false);
    assert!(sequences(&index).is_sorted());
    assert_eq!(index.last(), Sequence(991));
}

#[test]
fn nobody_vouches_for_what_comes_after() {
    let stored = |bytes: &'static [u8]| Stored { sequence: Sequence(3), subject: "a".into(), bytes: bytes.into() };
    assert!(Print::of(&stored(b"garbage")).seen.is_none());
    assert_ne!(Print::of(&stored(b"garbage")).digest, Print::of(&stored(b"garbages")).digest);
}
