//! Guests written by hand, so that they can do what no compiler would: a module in text, its parts replaceable one by one.
//!
//! The memory of a guest: the areas that functions return, the manifest, the answer with its texts, and from [`HEAP`] on what `realloc` hands
//! out. Layouts are those of the canonical ABI; they are spelled here by hand, which is a second opinion on the host's.

use policy_host::contract::{Advice, Effect, Fault, Obligation, Reason, Verdict, expiry, quota, route};
use policy_host::{Output, canonical_json};
use schemas::policy::PolicyKind;
use serde_json::{Value, json};
use wit_component::StringEncoding;
use wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../../../plugins/wit/policy.wit");

const DESCRIBED: u32 = 16;
const CONFIGURED: u32 = 32;
/// Where `decide` leaves its answer.
pub(crate) const ANSWER: u32 = 64;
const MANIFEST: u32 = 0x4000;
pub(crate) const HEAP: u32 = 0xe000;

/// A core module of one world. The fields are the bodies of its functions and other parts, in text.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) kind: PolicyKind,
    pub(crate) manifest: String,
    pub(crate) memory: String,
    pub(crate) describe: String,
    pub(crate) configure: String,
    pub(crate) decide: String,
    pub(crate) realloc: String,
    /// Further fields of the module.
    pub(crate) fields: String,
    /// Imports come first in a module.
    pub(crate) imports: String,
    pub(crate) image: Image,
}

/// A manifest that declares all there is.
pub(crate) fn manifest(kind: PolicyKind) -> Value {
    let mut manifest = json!({
        "name": "guest", "version": "1", "kind": kind.as_str(), "effects": ["permit", "deny", "not_applicable"],
        "reasons": [{ "code": "test.reason" }], "obligations": ["cap_output", "cap_parallel", "tag_usage", "pin_region"],
        "advice": ["rotate_key_by", "warn"],
    });
    if kind == PolicyKind::Quota {
        manifest["meters"] = json!(["key.tokens.day"]);
    }
    manifest
}

pub(crate) fn permit() -> Verdict {
    Verdict::plain(Effect::Permit)
}

/// The output of a kind that says no more than its verdict.
pub(crate) fn plain(kind: PolicyKind, verdict: Verdict) -> Output {
    match kind {
        PolicyKind::Expiry => Output::Expiry(expiry::Output { verdict, valid_until_ms: None }),
        PolicyKind::Quota => Output::Quota(quota::Output { verdict, reserve: vec![], retry_ms: None }),
        PolicyKind::Route => Output::Route(route::Output { verdict, picks: vec![] }),
    }
}

impl Guest {
    /// One that permits everything and asks for nothing.
    pub(crate) fn new(kind: PolicyKind) -> Self {
        Self::answering(&Ok(plain(kind, permit())), kind)
    }

    /// One that always gives this answer.
    pub(crate) fn answering(answer: &Result<Output, Fault>, kind: PolicyKind) -> Self {
        Self {
            kind,
            manifest: canonical_json(&manifest(kind)),
            memory: "(memory (export \"memory\") 2)".into(),
            describe: format!("i32.const {DESCRIBED}"),
            configure: format!("i32.const {CONFIGURED}"),
            decide: format!("i32.const {ANSWER}"),
            realloc: REALLOC.into(),
            fields: String::new(),
            imports: String::new(),
            image: Image::of(answer, kind),
        }
    }

    pub(crate) fn saying(output: Output) -> Self {
        let kind = output.kind();
        Self::answering(&Ok(output), kind)
    }

    pub(crate) fn deciding(kind: PolicyKind, body: &str) -> Self {
        Self { decide: body.into(), ..Self::new(kind) }
    }

    pub(crate) fn with_fields(mut self, fields: &str) -> Self {
        self.fields.push_str(fields);
        self
    }

    pub(crate) fn text(&self) -> String {
        let kind = self.kind.as_str();
        let Self { memory, describe, configure, decide, realloc, fields, imports, .. } = self;
        let described = [MANIFEST.to_le_bytes(), u32::try_from(self.manifest.len()).unwrap().to_le_bytes()].concat();
        let data = [(DESCRIBED, described.as_slice()), (MANIFEST, self.manifest.as_bytes()), (ANSWER, &self.image.bytes)];
        let data: String = data.iter().map(|(at, bytes)| format!("(data (i32.const {at}) \"{}\")\n", escaped(bytes))).collect();
        format!(
            r#"(module {imports} {memory}
            (global $heap (mut i32) (i32.const {HEAP}))
            (func $describe (export "keyrelay:policy/setup@1.0.0#describe") (result i32) {describe})
            (func $configure (export "keyrelay:policy/setup@1.0.0#configure") (param $settings i32) (param $length i32) (result i32) {configure})
            (func $decide (export "keyrelay:policy/{kind}-policy@1.0.0#decide") (param $input i32) (result i32) {decide})
            (func $realloc (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
                (local $at i32) {realloc})
            {fields}
            {data})"#
        )
    }

    /// As `cargo build` for wasm32-unknown-unknown leaves it: a core module that says which world it is of.
    pub(crate) fn module(&self) -> Vec<u8> {
        let text = self.text();
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        embed(&mut module, self.kind.as_str());
        module
    }
}

/// Says in the module which world it is of.
pub(crate) fn embed(module: &mut Vec<u8>, world: &str) {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", CONTRACT).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(module, &resolve, world, StringEncoding::UTF8).unwrap();
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

/// Hands out memory upwards and never takes it back: an instance lives for one call.
const REALLOC: &str = r"
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1))) (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $new)))
    (block $fits (loop $more
        (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
        (br $more)))
    (local.get $at)";

/// An answer as it lies in a guest's memory, from [`ANSWER`] on.
#[derive(Clone, Default)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
}

/// Where the payload of the answer begins, and the parts of a verdict in it.
pub(crate) const fn payload(kind: PolicyKind) -> usize {
    match kind {
        PolicyKind::Route => 4,
        PolicyKind::Quota | PolicyKind::Expiry => 8,
    }
}
pub(crate) const EFFECT: usize = 0;
pub(crate) const REASONS: usize = 4;
pub(crate) const OBLIGATIONS: usize = 12;
pub(crate) const ADVICE: usize = 20;
/// What follows the verdict: the list of picks or charges.
pub(crate) const LIST: usize = 28;

impl Image {
    fn of(answer: &Result<Output, Fault>, kind: PolicyKind) -> Self {
        let mut image = Self { bytes: vec![0; 80] };
        let at = payload(kind);
        match answer {
            Err(fault) => {
                image.put(0, &[1]);
                image.text(at, &fault.code);
                image.text(at + 8, &fault.detail);
            }
            Ok(output) => image.output(at, output),
        }
        image
    }

    /// Overwrites what is there.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn word(&mut self, at: usize, word: u32) {
        self.put(at, &word.to_le_bytes());
    }

    /// A pointer and a length, of a text or a list.
    pub(crate) fn slice(&mut self, at: usize, pointer: u32, length: u32) {
        self.word(at, pointer);
        self.word(at + 4, length);
    }

    /// Room at the end, aligned for anything.
    pub(crate) fn room(&mut self, bytes: usize) -> usize {
        let at = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(at + bytes, 0);
        at
    }

    pub(crate) fn text(&mut self, at: usize, text: &str) {
        self.raw_text(at, text.as_bytes());
    }

    /// A text that may be none.
    pub(crate) fn raw_text(&mut self, at: usize, bytes: &[u8]) {
        let room = self.room(bytes.len());
        self.put(room, bytes);
        self.slice(at, address(room), u32::try_from(bytes.len()).unwrap());
    }

    fn list<T>(&mut self, at: usize, size: usize, items: &[T], mut write: impl FnMut(&mut Self, usize, &T)) {
        let room = self.room(size * items.len());
        self.slice(at, address(room), u32::try_from(items.len()).unwrap());
        for (n, item) in items.iter().enumerate() {
            write(self, room + n * size, item);
        }
    }

    fn output(&mut self, at: usize, output: &Output) {
        self.verdict(at, output.verdict());
        match output {
            Output::Route(output) => self.list(at + LIST, 16, &output.picks, |image, at, pick| {
                image.text(at, &pick.id);
                image.slice(at + 8, pick.rank, pick.weight);
            }),
            Output::Quota(output) => {
                self.list(at + LIST, 16, &output.reserve, |image, at, charge| {
                    image.text(at, &charge.meter);
                    image.put(at + 8, &charge.amount.to_le_bytes());
                });
                self.option(at + 40, output.retry_ms);
            }
            Output::Expiry(output) => self.option(at + 32, output.valid_until_ms.map(i64::cast_unsigned)),
        }
    }

    /// One reason whose text is neither there nor not.
    pub(crate) fn raw_reason_option(&mut self, list: usize) {
        let room = self.room(24);
        self.text(room, "test.reason");
        self.put(room + 8, &[2]);
        self.slice(list, address(room), 1);
    }

    fn option(&mut self, at: usize, value: Option<u64>) {
        self.put(at, &[u8::from(value.is_some())]);
        self.put(at + 8, &value.unwrap_or(0).to_le_bytes());
    }

    fn verdict(&mut self, at: usize, verdict: &Verdict) {
        self.put(at + EFFECT, &[verdict.effect as u8]);
        self.list(at + REASONS, 24, &verdict.reasons, |image, at, Reason { code, text, is_public }| {
            image.text(at, code);
            image.put(at + 8, &[u8::from(text.is_some())]);
            image.text(at + 12, text.as_deref().unwrap_or(""));
            image.put(at + 20, &[u8::from(*is_public)]);
        });
        self.list(at + OBLIGATIONS, 24, &verdict.obligations, |image, at, obligation| match obligation {
            Obligation::CapOutput(tokens) => image.put(at + 8, &tokens.to_le_bytes()),
            Obligation::CapParallel(requests) => {
                image.put(at, &[1]);
                image.word(at + 8, *requests);
            }
            Obligation::TagUsage(tag) => {
                image.put(at, &[2]);
                image.text(at + 8, &tag.name);
                image.text(at + 16, &tag.value);
            }
            Obligation::PinRegion(region) => {
                image.put(at, &[3]);
                image.text(at + 8, region);
            }
        });
        self.list(at + ADVICE, 16, &verdict.advice, |image, at, advice| match advice {
            Advice::RotateKeyBy(moment) => image.put(at + 8, &moment.to_le_bytes()),
            Advice::Warn(warning) => {
                image.put(at, &[1]);
                image.text(at + 8, warning);
            }
        });
    }
}

/// Where a byte of the image lies in the guest's memory.
pub(crate) fn address(offset: usize) -> u32 {
    ANSWER + u32::try_from(offset).unwrap()
}
