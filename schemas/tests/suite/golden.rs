//! Bytes that are frozen. Each file under `golden/` was written once, by the release that first wrote such bytes; this release must read it
//! and, where it still writes that version, write the same. `KEYRELAY_GOLDEN=write` adds files that are missing and never touches one
//! that is there.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use schemas::decision::{DecisionAnswer, DecisionBatch, DecisionEffect, DecisionMode, DecisionRecord};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::record::{self, Frame};
use schemas::usage::{AddressClass, Outcome, TokenParts, UsageBatch, UsageRecord, UsageSource};
use schemas::{
    Actor, BindingId, CommandId, Digest, Event, IncarnationId, RequestId, SessionId, Stream, StreamKind, TenantId, Verdict, WriterId,
    client_key, judge,
};

use crate::log::{Draft, Log};
use crate::samples;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[allow(clippy::disallowed_methods, reason = "the switch of a test, not a setting of the program")]
fn writes() -> bool {
    std::env::var_os("KEYRELAY_GOLDEN").is_some_and(|value| value == "write")
}

/// The text of a golden file; writes it first if it is missing and that was asked for.
fn read(name: &str, current: impl FnOnce() -> String) -> String {
    let path = folder().join(name);
    if !path.exists() && writes() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // `create_new` refuses a file that is there, whatever was seen a moment ago.
        OpenOptions::new().write(true).create_new(true).open(&path).unwrap().write_all(current().as_bytes()).unwrap();
    }
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("golden/{name}: {error}; see schemas/README.md on how a file is added"))
}

/// The bytes of a file of hexadecimal; `#` begins a comment.
fn read_hex(name: &str, current: impl FnOnce() -> String) -> Vec<u8> {
    let text = read(name, current);
    let digits: String = text.lines().map(|line| line.split('#').next().unwrap()).flat_map(str::split_whitespace).collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
}

fn hex_lines(comment: &str, bytes: &[u8]) -> String {
    let lines: String = bytes.chunks(32).map(|chunk| data_encoding::HEXLOWER.encode(chunk) + "\n").collect();
    format!("# {comment}\n{lines}")
}

/// The bytes of a record, a line for each field.
fn record_lines(comment: &str, bytes: &[u8]) -> String {
    let fields = [
        (1, "format"),
        (1, "signature scheme: Ed25519"),
        (2, "header length"),
        (2, "signature length"),
        (4, "payload length"),
        (16, "writer id"),
        (32, "BLAKE3-256 of the payload"),
        (16, "record id"),
        (16, "command id"),
        (32, "digest of the request"),
        (1, "stream kind"),
        (32, "tenant"),
        (16, "stream id"),
        (8, "version"),
        (1, "actor kind"),
        (32, "actor id"),
        (16, "causation"),
        (16, "correlation"),
        (8, "time, microseconds"),
        (8, "seen: sequence"),
        (32, "seen: root"),
        (64, "signature over all of the above"),
    ];
    let mut rest = bytes;
    let mut text = format!("# {comment}\n");
    for (length, name) in fields {
        let (field, after) = rest.split_at(length);
        text += &format!("{} # {name}\n", data_encoding::HEXLOWER.encode(field));
        rest = after;
    }
    text + &hex_lines("payload: (type number, schema version, bytes) of each event", rest)
}

#[test]
fn a_record_of_format_1_reads_and_writes_as_it_did() {
    let draft = Draft { events: vec![crate::log::sample("KeyRotated"), crate::log::sample("KeyDisabled")], ..Draft::key_created() };
    let golden = read_hex("header-v1.hex", || {
        record_lines(
            "Record of format 1 with two events, made of tests/suite/samples.rs: `header`, KeyRotated, KeyDisabled.",
            &draft.bytes(),
        )
    });
    let frame = Frame::parse(&golden).unwrap();
    assert_eq!(frame.header().unwrap(), draft.header);
    assert_eq!(frame.events().unwrap(), draft.events);
    assert_eq!(record::encode(samples::cluster_id(), &draft.header, &draft.events, &draft.key).unwrap(), golden);
    assert!(matches!(judge(&Log::enrolled(), &draft.subject, &golden), Verdict::Valid(_)));
}

#[test]
fn the_founding_and_the_first_enrolment_read_and_write_as_they_did() {
    let (founding, enrolment) = (Draft::founding(), Draft::enrolment());
    let golden = read_hex("founding.hex", || {
        record_lines("The founding record, signed by the cluster key of tests/suite/samples.rs.", &founding.bytes())
    });
    assert_eq!(founding.bytes(), golden);
    assert!(matches!(judge(&Log::default(), "kr.e._.cluster.0", &golden), Verdict::Valid(_)));
    let golden = read_hex("enrolment.hex", || {
        record_lines("The enrolment of the sample writer in the cluster of founding.hex.", &enrolment.bytes())
    });
    assert_eq!(enrolment.bytes(), golden);
    assert!(matches!(judge(&Log::founded(), &enrolment.subject, &golden), Verdict::Valid(_)));
}

#[test]
fn subjects_read_and_write_as_they_did() {
    let id = samples::bytes(0x20);
    let stream = |kind| match kind {
        StreamKind::Cluster => Stream::CLUSTER,
        StreamKind::Writer => Stream::writer(WriterId::from_bytes(id)),
        StreamKind::Tenant => Stream::tenant_of(samples::tenant()),
        kind => Stream::new(samples::tenant(), kind, id).unwrap(),
    };
    let lines = |kind: StreamKind| format!("{} {}\n", kind as u8, stream(kind).subject());
    let golden = read("subjects.txt", || StreamKind::ALL.into_iter().map(lines).collect());
    assert_eq!(golden.lines().count(), StreamKind::ALL.len());
    for (line, kind) in golden.lines().zip(StreamKind::ALL) {
        let (number, subject) = line.split_once(' ').unwrap();
        assert_eq!(StreamKind::from_number(number.parse().unwrap()), Some(kind));
        assert_eq!(Stream::from_subject(subject), Some(stream(kind)));
        assert_eq!(stream(kind).subject(), subject);
    }
}

/// Ids and hashes that are derived: a retry, another node or a later release must come to the same.
#[test]
fn derivations_give_what_they_gave() {
    let tenant = TenantId::default_tenant();
    let actors = [
        Actor::Owner,
        Actor::User(schemas::UserId::from_bytes(samples::bytes(1))),
        Actor::Session(SessionId::from_bytes(samples::bytes(2))),
        Actor::Key(samples::key_id()),
        Actor::Node(WriterId::from_bytes(samples::bytes(3))),
        Actor::Policy(schemas::Digest::from_bytes([4; 32])),
        Actor::Scheduler,
        Actor::Import(schemas::Digest::from_bytes([5; 32])),
    ];
    let command = CommandId::of(&tenant, &Actor::Owner, "retry-1");
    let client_key = client_key::format(samples::key_id(), &[7; 32]);
    let lines = vec![
        ("writer id of a public key", samples::writer_id(&samples::writer_key()).to_string()),
        ("step `credential` of a command", command.step("credential").to_string()),
        ("record id of a command", command.record_id().to_string()),
        ("key id of a command", command.new_key_id().to_string()),
        ("upstream id of a command", command.new_upstream_id().to_string()),
        ("credential id of a command", command.new_credential_id().to_string()),
        ("pool id of a command", command.new_pool_id().to_string()),
        ("founding command `tenant`", samples::cluster_id().founding_command("tenant").to_string()),
        ("default pool", samples::cluster_id().default_pool_id().to_string()),
        ("default pool of the tenant `acme-1`", samples::cluster_id().tenant_pool_command(&samples::tenant()).new_pool_id().to_string()),
        ("client key", client_key.to_string()),
        ("hash of a client key", client_key::hash(&client_key).to_string()),
        ("hash of an owner token", client_key::owner_token_hash("kr-owner-sample").to_string()),
    ];
    let command_ids = actors.iter().map(|actor| format!("command id of {actor}: {}\n", CommandId::of(&tenant, actor, "retry-1")));
    let current: String = lines.iter().map(|(name, value)| format!("{name}: {value}\n")).chain(command_ids).collect();
    assert_eq!(read("derivations.txt", || current.clone()), current);
}

#[test]
fn a_usage_batch_reads_and_writes_as_it_did() {
    let record = UsageRecord {
        request: RequestId::from_bytes(samples::bytes(1)),
        tenant: samples::tenant(),
        key: samples::key_id(),
        secret_number: 2,
        upstream: samples::upstream_id(),
        dialect: schemas::upstream::Dialect::Anthropic,
        model_requested: "claude-latest".into(),
        model_billed: Some("claude-1".into()),
        streamed: true,
        attempts: 2,
        status: 200,
        outcome: Outcome::ClientLeft,
        source: UsageSource::Partial,
        tokens: TokenParts {
            input_uncached: Some(300),
            cache_read: Some(0),
            cache_write_5m: Some(1),
            cache_write_1h: None,
            output_visible: Some(70_000),
            output_reasoning: None,
        },
        started_at: samples::TIME,
        settled_at: samples::TIME.plus_seconds(2),
        client: None,
    };
    let plain =
        UsageRecord { outcome: Outcome::Completed, source: UsageSource::Provider, model_billed: None, streamed: false, ..record.clone() };
    let batch = UsageBatch {
        node: samples::writer_id(&samples::writer_key()),
        incarnation: IncarnationId::from_bytes(samples::bytes(0x11)),
        number: 300,
        records: vec![record, plain],
    };
    let golden = read_hex("usage-batch-v1.hex", || hex_lines("Usage batch of format 1 with two records.", &batch.encode()));
    assert_eq!(UsageBatch::decode(&golden), Some(batch.clone()));
    assert_eq!(batch.encode(), golden);
    for length in 0..golden.len() {
        assert_eq!(UsageBatch::decode(&golden[..length]), None, "{length} bytes");
    }

    // What is known of clients stands beside the records, in a format of its own.
    let mut told = batch;
    told.records.push(told.records[0].clone());
    told.records[0].client = Some(AddressClass::Private);
    told.records[2].client = Some(AddressClass::Public);
    let golden = read_hex("usage-batch-v2.hex", || hex_lines("Usage batch of format 2 with three records.", &told.encode()));
    assert_eq!(UsageBatch::decode(&golden), Some(told.clone()));
    assert_eq!(told.encode(), golden);
    for length in 0..golden.len() {
        assert_eq!(UsageBatch::decode(&golden[..length]), None, "{length} bytes");
    }
}

#[test]
fn a_decision_batch_reads_and_writes_as_it_did() {
    let record = DecisionRecord {
        request: RequestId::from_bytes(samples::bytes(1)),
        at: samples::TIME,
        tenant: samples::tenant(),
        key: samples::key_id(),
        kind: PolicyKind::Quota,
        binding: BindingId::from_bytes(samples::bytes(2)),
        policy: Digest::blake3(b"policy"),
        class: Some(PolicyClass::Slow),
        settings: Digest::blake3(b"{}"),
        mode: DecisionMode::Canary,
        input: vec![1, 2, 3],
        answer: DecisionAnswer::Output(vec![4, 5]),
        effect: DecisionEffect::Deny,
        reasons: vec!["budget.spent".into()],
        combined: DecisionEffect::Deny,
        cost_max: Some(70_000),
        fuel: 1_234,
        elapsed_ns: 9_000,
        engine: "wasmtime 48.0.8".into(),
    };
    let answer = DecisionAnswer::Fault { code: "trap".into(), detail: "unreachable".into(), replayable: true };
    let (effect, mode) = (DecisionEffect::Fault, DecisionMode::Shadow);
    let fault = DecisionRecord { kind: PolicyKind::Route, class: None, mode, answer, effect, cost_max: None, ..record.clone() };
    let (effect, combined) = (DecisionEffect::NotApplicable, DecisionEffect::Permit);
    let plain = DecisionRecord { kind: PolicyKind::Expiry, effect, combined, mode: DecisionMode::Enforced, ..record.clone() };
    let batch = DecisionBatch {
        node: samples::writer_id(&samples::writer_key()),
        incarnation: IncarnationId::from_bytes(samples::bytes(0x11)),
        number: 300,
        records: vec![record, fault, plain],
    };
    let golden = read_hex("decision-batch-v1.hex", || hex_lines("Decision batch of format 1 with three records.", &batch.encode()));
    assert_eq!(DecisionBatch::decode(&golden), Some(batch.clone()));
    assert_eq!(batch.encode(), golden);
    for length in 0..golden.len() {
        assert_eq!(DecisionBatch::decode(&golden[..length]), None, "{length} bytes");
    }
}

#[test]
fn every_event_reads_and_writes_as_it_did() {
    for event in samples::events() {
        let (name, version) = (event.name(), event.schema_version());
        let golden = read_hex(&format!("events/{name}.v{version}.hex"), || {
            let number = event.type_number();
            hex_lines(&format!("{name}, type {number:#06x}, schema version {version}: postcard of its sample."), &event.encode())
        });
        assert_eq!(Event::decode(event.type_number(), version, &golden), Ok(event.clone()), "{name}");
        assert_eq!(event.encode(), golden, "{name}");
    }
}

/// Older versions too: their files stay for ever, and none is there for an event or a version that this release does not know.
#[test]
fn every_version_that_was_ever_written_can_be_read() {
    let samples = samples::events();
    let versions =
        |event: &Event| (1..=event.schema_version()).map(|version| format!("{}.v{version}.hex", event.name())).collect::<Vec<_>>();
    let expected: BTreeSet<String> = samples.iter().flat_map(versions).collect();
    let found = fs::read_dir(folder().join("events")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.collect::<BTreeSet<_>>(), expected);
    for event in samples {
        for (file, version) in versions(&event).into_iter().zip(1..) {
            let golden = read_hex(&format!("events/{file}"), || panic!("{file} vanished"));
            let read = Event::decode(event.type_number(), version, &golden);
            assert_eq!(read.map(|read| read.name()), Ok(event.name()), "{file}");
        }
    }
}
