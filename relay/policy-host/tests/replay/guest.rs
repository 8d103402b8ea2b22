//! Two small policies in WebAssembly text, whose answers are easy to tell by other means.
//!
//! Layouts are those of the canonical ABI, spelled by hand.

use wit_component::StringEncoding;
use wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../../../plugins/wit/policy.wit");

/// A quota policy that denies what may cost more than `limit`, with reason `test.over` or, over twice the limit, `test.far`. It says nothing of
/// requests without a price, traps for bodies of 13 bytes, and burns fuel by the size of the body.
pub(crate) fn price_limit(limit: u64) -> Vec<u8> {
    let manifest = r#"{"name":"price-limit","version":"1","kind":"quota","effects":["permit","deny","not_applicable"],"reasons":[{"code":"test.over"},{"code":"test.far"}],"obligations":[],"advice":[],"meters":[]}"#;
    let far = limit * 2;
    let decide = format!(
        r#"(local $n i32) (local $bytes i64) (local $cost i64)
        (local.set $bytes (i64.load offset=104 (local.get $input)))
        (local.set $n (i32.and (i32.wrap_i64 (local.get $bytes)) (i32.const 63)))
        (block $spent (loop $spend
            (br_if $spent (i32.eqz (local.get $n))) (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br $spend)))
        (if (i64.eq (local.get $bytes) (i64.const 13)) (then unreachable))
        (if (i32.eqz (i32.load8_u offset=152 (local.get $input)))
            (then (i32.store8 (i32.const 72) (i32.const 2)) (return (i32.const 64))))
        (local.set $cost (i64.load offset=160 (local.get $input)))
        (if (i64.gt_u (local.get $cost) (i64.const {limit})) (then
            (i32.store8 (i32.const 72) (i32.const 1))
            (i32.store (i32.const 76) (i32.const 128)) (i32.store (i32.const 80) (i32.const 1))
            (i32.store (i32.const 128) (i32.const 512)) (i32.store (i32.const 132) (i32.const 9))
            (if (i64.gt_u (local.get $cost) (i64.const {far})) (then
                (i32.store (i32.const 128) (i32.const 544)) (i32.store (i32.const 132) (i32.const 8))))))
        (i32.const 64)"#
    );
    module("quota", manifest, &decide, r#"(data (i32.const 512) "test.over") (data (i32.const 544) "test.far")"#)
}

/// A route policy that picks the first of the candidates, or the last.
pub(crate) fn one_pick(last: bool) -> Vec<u8> {
    let manifest =
        r#"{"name":"one-pick","version":"1","kind":"route","effects":["permit"],"reasons":[],"obligations":[],"advice":[],"meters":[]}"#;
    let index = if last { "(i32.sub (i32.load offset=148 (local.get $input)) (i32.const 1))" } else { "(i32.const 0)" };
    let decide = format!(
        r#"(local $candidate i32)
        (local.set $candidate (i32.add (i32.load offset=144 (local.get $input)) (i32.mul {index} (i32.const 128))))
        (i32.store (i32.const 96) (i32.const 128)) (i32.store (i32.const 100) (i32.const 1))
        (i64.store (i32.const 128) (i64.load (local.get $candidate)))
        (i32.store (i32.const 140) (i32.const 1))
        (i32.const 64)"#
    );
    module("route", manifest, &decide, "")
}

/// As `cargo build` for wasm32-unknown-unknown leaves it: a core module that says which world it is of.
fn module(kind: &str, manifest: &str, decide: &str, fields: &str) -> Vec<u8> {
    let text = format!(
        r#"(module (memory (export "memory") 4)
        (global $heap (mut i32) (i32.const 0x8000))
        (func (export "keyrelay:policy/setup@1.0.0#describe") (result i32) (i32.const 16))
        (func (export "keyrelay:policy/setup@1.0.0#configure") (param i32 i32) (result i32) (i32.const 32))
        (func (export "keyrelay:policy/{kind}-policy@1.0.0#decide") (param $input i32) (result i32) {decide})
        (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32) (local $at i32)
            (local.set $at (i32.and
                (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
                (i32.sub (i32.const 0) (local.get $align))))
            (global.set $heap (i32.add (local.get $at) (local.get $size)))
            (local.get $at))
        (data (i32.const 16) "\00\40\00\00{length}") (data (i32.const 0x4000) "{manifest}") {fields})"#,
        length = bytes_text(u32::try_from(manifest.len()).unwrap()),
        manifest = manifest.replace('"', "\\\""),
    );
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", CONTRACT).unwrap();
    let world = resolve.select_world(&[package], Some(kind)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

fn bytes_text(number: u32) -> String {
    number.to_le_bytes().iter().map(|byte| format!("\\{byte:02x}")).collect()
}
