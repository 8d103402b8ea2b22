#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use control::backup::Archive;
use control::backup::manifest::{FORMAT, KIND};
use ed25519_dalek::{Signer as _, SigningKey};
use schemas::cluster::{ClusterFounded, FORMAT_LEVEL};
use schemas::credential::CredentialAdded;
use schemas::judge::sign_enrolment;
use schemas::key::{Expiry, ImportedSecret, KeyCreated, KeyDetails, KeyImported, KeyRevoked, KeySuccessorSealed, SecretScheme};
use schemas::policy::{PolicyClass, PolicyKind, PolicyUploaded};
use schemas::record::{Header, Seen, encode};
use schemas::writer::{WriterEnrolled, WriterRetired};
use schemas::{Actor, CommandId, CredentialId, Event, KeyId, TenantId, UpstreamId, Version, WriterId};
use vault::{Lifetime, Slot};

use super::*;

#[path = "../../../../control/src/backup/sample.rs"]
mod sample;

pub(in crate::backup) use sample::manifest;

const CLUSTER_ID: ClusterId = ClusterId::from_bytes([9; 16]);
/// The key whose second secret waits to be collected.
const WAITING: KeyId = KeyId::from_bytes([8; 16]);
const MODULE: &[u8] = b"module";

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

/// What a backup is made of, to be tampered with before it is written.
struct World {
    writer_key: SigningKey,
    root_key: RootKey,
    records: Vec<(String, Vec<u8>)>,
    keys: Vec<(Entry, Slot, Vec<u8>)>,
    modules: Vec<(Digest, Vec<u8>)>,
}

impl World {
    /// A cluster with its writer, a credential and a policy, and all their secrets and modules.
    fn new() -> Self {
        let (cluster_key, writer_key) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let root_key = RootKey::generate().unwrap();
        let modules = vec![(Digest::blake3(MODULE), MODULE.to_vec())];
        let mut world = Self { writer_key: writer_key.clone(), root_key, records: Vec::new(), keys: Vec::new(), modules };
        let founded = ClusterFounded {
            cluster_id: CLUSTER_ID,
            format_level: FORMAT_LEVEL,
            cluster_public_key: public(&cluster_key),
            root_key_commitment: world.root_key.commitment(),
            owner_token_hash: Digest::from_bytes([4; 32]),
        };
        world.append(&Stream::CLUSTER, Event::ClusterFounded(founded), &cluster_key);
        let public_key = public(&writer_key);
        let cluster_signature = sign_enrolment(CLUSTER_ID, &public_key, &cluster_key);
        let enrolled = Event::WriterEnrolled(WriterEnrolled { public_key, cluster_signature });
        world.append(&Stream::writer(WriterId::of(&public_key)), enrolled, &writer_key);
        let (tenant, id, origin) = (TenantId::default_tenant(), CredentialId::from_bytes([5; 16]), "https://api.example.com".to_owned());
        let added = CredentialAdded { upstream: UpstreamId::from_bytes([6; 16]), origin, fingerprint: "1:0123".into() };
        world.append(&Stream::credential(tenant.clone(), id), Event::CredentialAdded(added), &writer_key);
        let digest = Digest::blake3(MODULE);
        let uploaded = PolicyUploaded {
            name: "open".into(),
            digest,
            uploaded_digest: digest,
            kind: PolicyKind::Route,
            class: PolicyClass::Fast,
            bytes: MODULE.len() as u64,
            manifest: "{}".into(),
        };
        world.append(&Stream::policy(tenant, &digest), Event::PolicyUploaded(uploaded), &writer_key);

        let (store, now) = (Arc::new(MemoryKeyStore::default()), Timestamp::from_micros(1));
        let vault = Vault::open(world.root_key.clone(), store.clone()).unwrap();
        let _ = vault.seal_cluster_key(&CLUSTER_ID, &[1; 32], now).unwrap();
        let _ = vault.seal(&referred(&world.fold())[0].address, b"sk-secret", Lifetime::lasting(now)).unwrap();
        for kind in [Entry::Wrapped, Entry::Sealed] {
            world.keys.extend(store.scan(kind, None, 100).unwrap().into_iter().map(|(slot, bytes)| (kind, slot, bytes)));
        }
        world
    }

    /// Two keys: one that another system's salt is needed for, and one whose second secret waits. Both secrets are in the key store.
    fn with_keys() -> Self {
        let mut world = Self::new();
        let (tenant, writer_key) = (TenantId::default_tenant(), world.writer_key.clone());
        let created = |name: &str| {
            let details = KeyDetails { name: name.to_owned(), ..KeyDetails::default() };
            Event::KeyCreated(KeyCreated { details, hash: Digest::blake3(name.as_bytes()), expiry: Expiry::Never })
        };
        let salted = Stream::key(tenant.clone(), KeyId::from_bytes([7; 16]));
        let scheme = SecretScheme::ClaudeRelayService { salt: 1 };
        let secrets = vec![ImportedSecret { number: 1, hash: Digest::blake3(b"salted"), scheme, valid_until: None }];
        let imported = KeyImported { secrets, created_at: Timestamp::from_micros(1), renewed_at: None, rotated_at: None };
        world.append(&salted, created("salted"), &writer_key);
        world.append_as(&salted, Event::KeyImported(imported), &writer_key, Version(2));
        let (waiting, id) = (Stream::key(tenant.clone(), WAITING), WAITING);
        world.append(&waiting, created("waiting"), &writer_key);
        world.append_as(&waiting, Event::KeySuccessorSealed(KeySuccessorSealed { number: 2 }), &writer_key, Version(2));

        let (store, now) = (Arc::new(MemoryKeyStore::default()), Timestamp::from_micros(1));
        for (kind, slot, bytes) in &world.keys {
            match kind {
                Entry::Sealed => drop(store.put_sealed(slot, bytes).unwrap()),
                Entry::Wrapped => drop(store.swap_wrapped(slot, None, Some(bytes)).unwrap()),
            }
        }
        let vault = Vault::open(world.root_key.clone(), store.clone()).unwrap();
        assert_eq!(vault.seal_salt(b"an ENCRYPTION_KEY", now).unwrap(), 1);
        let _ = vault.seal(&control::successor_address(&tenant, id, 2), b"sk-kr-next", Lifetime::lasting(now)).unwrap();
        world.keys.clear();
        for kind in [Entry::Wrapped, Entry::Sealed] {
            world.keys.extend(store.scan(kind, None, 100).unwrap().into_iter().map(|(slot, bytes)| (kind, slot, bytes)));
        }
        world
    }

    fn append(&mut self, stream: &Stream, event: Event, key: &SigningKey) {
        self.append_as(stream, event, key, Version(1));
    }

    fn append_as(&mut self, stream: &Stream, event: Event, key: &SigningKey, version: Version) {
        let command_id = CommandId::from_bytes([u8::try_from(self.records.len()).unwrap(); 16]);
        let header = Header {
            writer: WriterId::of(&public(key)),
            record_id: command_id.record_id(),
            command_id,
            request_digest: Digest::from_bytes([0; 32]),
            stream: stream.clone(),
            version,
            actor: Actor::Owner,
            causation: None,
            correlation: command_id,
            time: Timestamp::from_micros(1_800_000_000_000_000),
            seen: Seen::nothing(),
        };
        self.records.push((stream.subject(), encode(CLUSTER_ID, &header, &[event], key).unwrap()));
    }

    fn fold(&self) -> Fold {
        let mut fold = Fold::default();
        for (subject, bytes) in &self.records {
            fold.add(subject, bytes).unwrap();
        }
        assert!(fold.voids().is_empty());
        fold
    }

    /// What verifying says of it, each finding as a text.
    fn findings(&self, root_key: &RootKey, change: impl FnOnce(&mut Manifest)) -> Vec<String> {
        self.signed_findings(root_key, change, |statement| self.writer_key.sign(statement).to_bytes())
    }

    /// The same, with a signature of the test's.
    fn signed_findings(&self, root_key: &RootKey, change: impl FnOnce(&mut Manifest), sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Vec<String> {
        let report = self.report(root_key, change, sign);
        assert_eq!(report.ok, report.findings.is_empty());
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        report.findings.iter().map(ToString::to_string).collect()
    }

    /// What verifying warns of, where there is nothing else.
    fn warnings(&self) -> Vec<String> {
        let report = self.report(&self.root_key, |_| (), |statement| self.writer_key.sign(statement).to_bytes());
        assert!(report.ok && report.findings.is_empty(), "{:?}", report.findings);
        report.warnings.iter().map(ToString::to_string).collect()
    }

    fn report(&self, root_key: &RootKey, change: impl FnOnce(&mut Manifest), sign: impl FnOnce(&[u8]) -> [u8; 64]) -> BackupReport {
        let records = self.records.iter().map(|(subject, bytes)| (Part::Log, entry::of_record(subject, bytes)));
        let keys = self.keys.iter().map(|(kind, slot, bytes)| (Part::Keys, entry::of_key(*kind, slot, bytes)));
        let kind = event_log::artefacts::ArtefactKind::PolicyModule;
        let modules = self.modules.iter().map(|(digest, bytes)| (Part::Artefacts, entry::of_artefact(kind, digest, bytes)));
        let entries: Vec<_> = records.chain(keys).chain(modules).collect();
        let fold = self.fold();
        let mut manifest = Manifest {
            cluster: CLUSTER_ID,
            cluster_public_key: public(&SigningKey::from_bytes(&[1; 32])),
            sequence: fold.size(),
            root: fold.root(),
            node: WriterId::of(&public(&self.writer_key)),
            ..manifest()
        };
        change(&mut manifest);
        let file = tempfile::NamedTempFile::new().unwrap();
        let entries = entries.iter().map(|(part, entry)| (*part, &entry[..]));
        std::fs::write(file.path(), sample::written(entries, manifest, sign)).unwrap();
        verify(file.path(), Some(root_key), |_| ()).unwrap()
    }

    fn is_found(&self, what: &str) {
        let findings = self.findings(&self.root_key, |_| ());
        assert!(findings.iter().any(|finding| finding.contains(what)), "{what}: {findings:?}");
    }
}

#[test]
fn a_whole_backup_has_no_findings() {
    let world = World::new();
    assert_eq!(world.findings(&world.root_key, |_| ()), [""; 0]);
}

#[test]
fn what_the_log_refers_to_and_is_not_there_is_found() {
    for kind in [Entry::Wrapped, Entry::Sealed] {
        let mut world = World::new();
        world.keys.retain(|(entry, slot, _)| *entry != kind || slot.owner_kind != CREDENTIAL);
        world.is_found("the secret of credential");
        let mut world = World::new();
        world.keys.retain(|(entry, slot, _)| *entry != kind || slot.owner_kind != CLUSTER);
        world.is_found("keys");
    }
    let mut world = World::new();
    world.modules.clear();
    world.is_found("the module of policy");
}

#[test]
fn what_a_node_can_go_on_without_is_a_warning_with_its_cure() {
    let whole = World::with_keys();
    assert_eq!(whole.warnings(), [""; 0]);
    let report = whole.report(&whole.root_key, |_| (), |statement| whole.writer_key.sign(statement).to_bytes());
    assert_eq!((report.secrets, report.secrets_opened), (3, Some(3)));
    let fields =
        [("salt", "the secret of salt 1 (", "ENCRYPTION_KEY"), ("successor", "(it waits to be collected)", "rotate the key again")];
    for (field, name, cure) in fields {
        for kind in [Entry::Wrapped, Entry::Sealed] {
            let mut world = World::with_keys();
            world.keys.retain(|(entry, slot, _)| *entry != kind || slot.field != field);
            let warnings = world.warnings();
            assert!(warnings.len() == 1 && warnings[0].contains(name) && warnings[0].contains(cure), "{field}: {warnings:?}");
        }
        let mut world = World::with_keys();
        for (_, slot, bytes) in &mut world.keys {
            if slot.field == field {
                *bytes.last_mut().unwrap() ^= 1;
            }
        }
        // What is there and was changed is damage, whatever it is needed for.
        world.is_found("does not open");
    }
}

#[test]
fn a_secret_of_a_key_that_was_revoked_is_not_missed() {
    let mut world = World::with_keys();
    let (waiting, key) = (Stream::key(TenantId::default_tenant(), WAITING), world.writer_key.clone());
    world.append_as(&waiting, Event::KeyRevoked(KeyRevoked { reason: None }), &key, Version(3));
    world.keys.retain(|(_, slot, _)| slot.field != "successor");
    assert_eq!(world.warnings(), [""; 0]);
}

#[test]
fn whole_but_forged_parts_are_found() {
    let mut world = World::new();
    world.modules[0].1 = b"another".to_vec();
    world.is_found("another digest");
    let mut world = World::new();
    for (_, slot, bytes) in &mut world.keys {
        if slot.owner_kind == CREDENTIAL {
            *bytes.last_mut().unwrap() ^= 1;
        }
    }
    world.is_found("does not open");
    let world = World::new();
    let is_told = |what: &str, claim: fn(&mut Manifest)| {
        let findings = world.findings(&world.root_key, claim);
        assert!(findings.len() == 1 && findings[0].contains(what), "{what}: {findings:?}");
    };
    is_told("sequence", |manifest| manifest.sequence = Sequence(99));
    is_told("root", |manifest| manifest.root = Digest::from_bytes([0; 32]));
    is_told("cluster", |manifest| manifest.cluster = ClusterId::from_bytes([0; 16]));
}

#[test]
fn a_manifest_that_no_node_of_the_log_signed_is_found() {
    let mut world = World::new();
    let stranger = SigningKey::from_bytes(&[3; 32]);
    let is_told = |world: &World, what: &str, claim: fn(&mut Manifest), by: &SigningKey| {
        let findings = world.signed_findings(&world.root_key, claim, |statement| by.sign(statement).to_bytes());
        assert!(findings.len() == 1 && findings[0].contains("signature") && findings[0].contains(what), "{what}: {findings:?}");
    };
    is_told(&world, "not as node", |_| (), &stranger);
    // What was changed after it was signed, with every digest put right.
    let earlier = world.signed_findings(
        &world.root_key,
        |manifest| manifest.created_at = Timestamp::from_micros(6),
        |statement| {
            let before = String::from_utf8(statement.to_vec()).unwrap().replace("00.000006Z", "00.000005Z");
            assert_ne!(before.as_bytes(), statement);
            world.writer_key.sign(before.as_bytes()).to_bytes()
        },
    );
    assert!(earlier.len() == 1 && earlier[0].contains("changed after it was taken"), "{earlier:?}");
    let own = |manifest: &mut Manifest| manifest.node = WriterId::of(&public(&SigningKey::from_bytes(&[3; 32])));
    is_told(&world, "which the log does not know", own, &stranger);
    let (writer, key) = (Stream::writer(WriterId::of(&public(&world.writer_key))), world.writer_key.clone());
    world.append_as(&writer, Event::WriterRetired(WriterRetired { cluster_signature: None }), &key, Version(2));
    is_told(&world, "had retired", |_| (), &key);
}

#[test]
fn another_root_key_is_told_with_the_cure() {
    let findings = World::new().findings(&RootKey::generate().unwrap(), |_| ());
    assert!(findings.len() == 1 && findings[0].contains("give the root.key"), "{findings:?}");
}
