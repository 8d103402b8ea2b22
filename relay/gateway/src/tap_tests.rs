#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// What a tap learnt, as one line.
fn summary(reading: &Reading) -> String {
    let tokens = reading.tokens;
    let part = |name: &str, count: Option<u64>| count.map(|count| format!("{name}={count} ")).unwrap_or_default();
    let flag = |name: &str, is_set: bool| if is_set { format!(" {name}") } else { String::new() };
    [
        part("in", tokens.input_uncached),
        part("read", tokens.cache_read),
        part("5m", tokens.cache_write_5m),
        part("1h", tokens.cache_write_1h),
        part("out", tokens.output_visible),
        part("reasoning", tokens.output_reasoning),
        format!("text={}", reading.text_bytes),
        flag("final", reading.is_final),
        flag("finished", reading.has_finished),
        flag("ended", reading.has_ended),
        flag("failed", reading.has_failed),
    ]
    .concat()
}

/// Sends the bytes through a tap in the given pieces; gives what the client saw and what was learnt.
fn run<'a>(dialect: Dialect, hides_usage: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, String) {
    let mut tap = Tap::Events(Box::new(EventTap::new(dialect, hides_usage)));
    let mut sent = Vec::new();
    for piece in pieces {
        sent.extend_from_slice(&tap.push(Bytes::copy_from_slice(piece)));
    }
    sent.extend_from_slice(&tap.finish());
    let reading = tap.reading();
    assert!(reading.model.as_deref().is_none_or(|model| matches!(model, "gpt-4o-2024-08-06" | "claude-sonnet-4-5-20250929")));
    (sent, summary(reading))
}

/// Transcript, and what is to be learnt of it.
const GOLDEN: [(&str, &str); 21] = [
    ("openai/normal.sse", "in=19 read=0 out=10 reasoning=0 text=34 final finished ended"),
    ("openai/crlf.sse", "in=19 read=0 out=10 reasoning=0 text=34 final finished ended"),
    ("openai/no_last_blank_line.sse", "in=19 read=0 out=10 reasoning=0 text=34 final finished"),
    ("openai/tools.sse", "in=82 out=17 text=22 final finished ended"),
    ("openai/cache_hit.sse", "in=86 read=1920 out=300 reasoning=0 text=34 final finished ended"),
    ("openai/reasoning.sse", "in=20 out=52 reasoning=448 text=15 final finished ended"),
    ("openai/cut.sse", "text=34"),
    ("openai/error.sse", "text=9 failed"),
    ("openai/usage_absent.sse", "text=11 finished ended"),
    ("openai/usage_repeated.sse", "in=5 out=3 text=2 final finished ended"),
    ("anthropic/normal.sse", "in=25 read=0 5m=0 out=15 text=40 final ended"),
    ("anthropic/crlf.sse", "in=25 read=0 5m=0 out=15 text=40 final ended"),
    ("anthropic/tools.sse", "in=472 out=89 text=23 final ended"),
    ("anthropic/cache_hit.sse", "in=12 read=1500 5m=300 1h=400 out=40 text=40 final ended"),
    ("anthropic/thinking.sse", "in=30 out=50 reasoning=200 text=13 final ended"),
    ("anthropic/cut.sse", "in=25 read=0 5m=0 out=1 text=11"),
    ("anthropic/error.sse", "in=25 read=0 5m=0 out=1 text=5 failed"),
    ("anthropic/usage_absent.sse", "text=40 ended"),
    ("anthropic/usage_repeated.sse", "in=25 read=0 5m=0 out=21 text=40 final ended"),
    ("openai/answer.json", "in=36 read=64 out=22 reasoning=8 text=0 final"),
    ("anthropic/answer.json", "in=2095 read=50 5m=100 1h=0 out=503 text=0 final"),
];

fn dialect(name: &str) -> Dialect {
    if name.starts_with("openai") { Dialect::Openai } else { Dialect::Anthropic }
}

#[test]
fn every_transcript_is_read_as_expected_wherever_it_is_cut() {
    for (name, expected) in GOLDEN.into_iter().filter(|(name, _)| name.ends_with(".sse")) {
        let bytes = fixture(name);
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let (sent, learnt) = run(dialect(name), false, [first, second]);
            assert_eq!(learnt, expected, "{name} cut at {cut}");
            assert_eq!(sent, bytes, "{name} cut at {cut}");
        }
        let (sent, learnt) = run(dialect(name), false, bytes.chunks(1));
        assert_eq!((sent, learnt.as_str()), (bytes, expected), "{name} byte by byte");
    }
}

#[test]
fn an_answer_that_is_no_stream_is_read_wherever_it_is_cut() {
    for (name, expected) in GOLDEN.into_iter().filter(|(name, _)| name.ends_with(".json")) {
        let bytes = fixture(name);
        for cut in 0..=bytes.len() {
            let mut tap = WholeTap::new(dialect(name));
            tap.push(Bytes::copy_from_slice(&bytes[..cut]));
            tap.push(Bytes::copy_from_slice(&bytes[cut..]));
            tap.finish();
            assert_eq!(summary(&tap.reading), expected, "{name} cut at {cut}");
        }
    }
}

#[test]
fn an_answer_without_usage_is_estimated_by_its_text() {
    let mut tap = WholeTap::new(Dialect::Openai);
    tap.push(fixture("openai/answer_usage_absent.json").into());
    tap.finish();
    assert_eq!(summary(&tap.reading), "text=15");
}

#[test]
fn exactly_the_usage_chunk_is_hidden_wherever_the_stream_is_cut() {
    for name in ["openai/normal.sse", "openai/crlf.sse", "openai/no_last_blank_line.sse", "openai/usage_repeated.sse", "openai/cut.sse"] {
        let bytes = fixture(name);
        let text = String::from_utf8(bytes.clone()).unwrap();
        let end = if name.contains("crlf") { "\r\n\r\n" } else { "\n\n" };
        let expected: String = text.split_inclusive(end).filter(|event| !event.contains("\"choices\":[],")).collect();
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let (sent, _) = run(Dialect::Openai, true, [first, second]);
            assert_eq!(String::from_utf8(sent).unwrap(), expected, "{name} cut at {cut}");
        }
        let (sent, _) = run(Dialect::Openai, true, bytes.chunks(1));
        assert_eq!(String::from_utf8(sent).unwrap(), expected, "{name} byte by byte");
    }
}

#[test]
fn what_ends_with_an_event_passes_uncopied() {
    let bytes = Bytes::from(fixture("openai/normal.sse"));
    let mut tap = EventTap::new(Dialect::Openai, false);
    let sent = tap.push(bytes.clone());
    assert_eq!((sent.as_ptr(), sent.len()), (bytes.as_ptr(), bytes.len()));
}

#[test]
fn half_an_event_is_held_until_it_is_whole() {
    let mut tap = EventTap::new(Dialect::Anthropic, false);
    assert_eq!(tap.push(Bytes::from_static(b"data: 1\n\ndata: 2")), "data: 1\n\n");
    assert_eq!(tap.push(Bytes::from_static(b"2\n")), "");
    assert_eq!(tap.push(Bytes::from_static(b"\ndata: 3")), "data: 22\n\n");
    assert_eq!(tap.finish(), "data: 3");
}

#[test]
fn an_overlong_event_flows_and_the_next_one_is_read() {
    for hides_usage in [false, true] {
        let mut tap = EventTap::new(Dialect::Openai, hides_usage);
        let piece = Bytes::from(vec![b'x'; EVENT_BYTES_MAX / 2]);
        let mut sent = 0;
        for _ in 0..40 {
            sent += tap.push(piece.clone()).len();
            assert!(tap.held.len() <= EVENT_BYTES_MAX);
        }
        assert_eq!(sent, 40 * piece.len());
        tap.push(Bytes::from_static(b"\n\n"));
        tap.push(fixture("openai/usage_repeated.sse").into());
        assert_eq!(summary(&tap.reading), "in=5 out=3 text=2 final finished ended");
    }
}

/// What streams are made of, and what they break in.
const PIECES: [&[u8]; 13] = [
    b"\n",
    b"\n\n",
    b"\r",
    b"\r\n",
    b"data:",
    b" {\"usage\":{}",
    b",\"choices\":[]}",
    b"event: error",
    b": c",
    b"[DONE]",
    b"\xc3",
    b"\xa9",
    b"\xef\xbb\xbf",
];

proptest! {
    #[test]
    fn no_stream_is_changed_but_for_the_hidden_chunk(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..40),
        is_openai in any::<bool>(),
    ) {
        let dialect = if is_openai { Dialect::Openai } else { Dialect::Anthropic };
        let whole = pieces.concat();
        let (sent, learnt) = run(dialect, false, pieces.iter().copied());
        let (_, learnt_at_once) = run(dialect, false, [&whole[..]]);
        prop_assert_eq!(&sent, &whole);
        prop_assert_eq!(learnt, learnt_at_once);
        let (hidden, _) = run(dialect, true, pieces.iter().copied());
        let (hidden_at_once, _) = run(dialect, true, [&whole[..]]);
        prop_assert_eq!(hidden, hidden_at_once);
    }
}
