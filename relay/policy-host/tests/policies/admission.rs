//! What is refused before it can be bound.

use policy_host::host::{CompileError, WorldError};
use policy_host::{
    AdmissionError, ConfigureError, InvalidOutput, LoadError, ManifestError, PolicyFault, SCHEMA_CODE, SettingsFault, Trapped, kind_of,
};
use schemas::Digest;
use schemas::policy::{PolicyClass, PolicyKind};
use serde_json::json;

use crate::guest::{Guest, embed, manifest};
use crate::world::{World, input};

const HANG: &str = "(loop $l (br $l)) (unreachable)";

fn guest() -> Guest {
    Guest::new(PolicyKind::Route)
}

/// A component in text.
fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn module(text: &str) -> Vec<u8> {
    let mut module = component(text);
    embed(&mut module, "route");
    module
}

fn refused(world: &World, uploaded: &[u8]) -> AdmissionError {
    match world.host.admit(uploaded, PolicyKind::Route, PolicyClass::Fast) {
        Ok(admitted) => panic!("admitted: {:?}", admitted.manifest),
        Err(error) => error,
    }
}

macro_rules! is_refused {
    ($world:expr, $($name:literal: $uploaded:expr => $pattern:pat,)*) => {{
        let mut count = 0;
        $(
            let error = refused($world, &$uploaded);
            assert!(matches!(error, $pattern), "{}: {error:?}", $name);
            count += 1;
        )*
        count
    }};
}

#[test]
fn what_is_no_policy_is_refused() {
    use AdmissionError::{Compile, World as NoWorld};
    let honest = guest().module();
    let whole = World::new().admit(&guest()).unwrap().component;
    let with_import = |import: &str| Guest { imports: import.into(), ..guest() }.module();
    let with_fields = |fields: &str| guest().with_fields(fields).module();
    let with_memory = |memory: &str| Guest { memory: memory.into(), ..guest() }.module();
    let wasi = component(r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance (export "now" (func (result u64))))))"#);
    let function = component(r#"(component (import "now" (func (result u64))))"#);
    let types = component(r#"(component (import "keyrelay:policy/types@1.0.0" (instance (export "now" (func (result u64))))))"#);
    let resource = component(r#"(component (import "keyrelay:policy/types@1.0.0" (instance (export "handle" (type (sub resource))))))"#);
    let instances = component(&format!(r#"(component (core module $m) {})"#, "(core instance (instantiate $m))".repeat(9)));
    let large = [honest.clone(), vec![0; 1 << 20]].concat();
    let functions = with_fields(&"(func)".repeat(10_001));
    let world = World::new();
    let count = is_refused! { &world,
        "nothing": [] => Compile(CompileError::Malformed(_)),
        "a text": *b"(component)" => Compile(CompileError::Malformed(_)),
        "an ELF file": *b"\x7fELF\x02\x01\x01\x00\x00" => Compile(CompileError::Malformed(_)),
        "a version of WebAssembly that there is not": *b"\0asm\x02\0\0\0" => Compile(CompileError::Malformed(_)),
        "a header and nothing": *b"\0asm\x0d\0\x01\0" => NoWorld(WorldError::Missing(_)),
        "a header and garbage": [&b"\0asm\x0d\0\x01\0"[..], &[0xff; 64]].concat() => Compile(CompileError::Malformed(_)),
        "a module cut off": honest[..honest.len() / 2] => Compile(CompileError::Encode(_)),
        "a component cut off": whole[..whole.len() - 9] => Compile(CompileError::Malformed(_)),
        "a module that says nothing of itself": component("(module)") => NoWorld(WorldError::Missing(_)),
        "a module too large": large => Compile(CompileError::TooLarge { .. }),
        "ten thousand functions": functions => Compile(CompileError::TooManyFunctions { .. }),
        "a module that lacks a function": module("(module (memory (export \"memory\") 1))") => Compile(CompileError::Encode(_)),
        "a function of the environment": with_import(r#"(import "env" "now" (func (result i64)))"#) => Compile(CompileError::Encode(_)),
        "WASI in a module": with_import(r#"(import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))"#)
            => Compile(CompileError::Encode(_)),
        "WASI in a component": wasi => NoWorld(WorldError::Imports(_)),
        "a function in a component": function => NoWorld(WorldError::Imports(_)),
        "a function among the types": types => NoWorld(WorldError::Imports(_)),
        "a resource among the types": resource => NoWorld(WorldError::Imports(_)),
        "two memories": with_fields("(memory 1)") => Compile(CompileError::Encode(_) | CompileError::Refused(_)),
        "a memory of 64 bits": with_memory("(memory (export \"memory\") i64 2)") => Compile(CompileError::Encode(_) | CompileError::Refused(_)),
        "a shared memory": with_memory("(memory (export \"memory\") 2 2 shared)") => Compile(CompileError::Encode(_) | CompileError::Refused(_)),
        "relaxed SIMD": with_fields("(func (drop (f32x4.relaxed_madd (v128.const i64x2 0 0) (v128.const i64x2 0 0) (v128.const i64x2 0 0))))")
            => Compile(CompileError::Refused(_)),
        "atomics": with_fields("(func (atomic.fence))") => Compile(CompileError::Refused(_)),
        "more memory from the start than there is": with_memory("(memory (export \"memory\") 65)") => AdmissionError::Engine(_),
        "a table from the start larger than there is": with_fields("(table 10001 funcref)") => AdmissionError::Engine(_),
        "nine tables": with_fields(&"(table 1 funcref)".repeat(9)) => AdmissionError::Engine(_),
        "tables that are too large together": with_fields(&"(table 9000 funcref)".repeat(2)) => NoWorld(WorldError::Instance(PolicyFault::OutOfMemory)),
        "nine instances": instances => NoWorld(_) | AdmissionError::Engine(_),
        "a start that never ends": with_fields(&format!("(func $s {HANG}) (start $s)")) => NoWorld(WorldError::Instance(PolicyFault::OutOfFuel)),
        "a start that traps": with_fields("(func $s unreachable) (start $s)")
            => NoWorld(WorldError::Instance(PolicyFault::Trap(Trapped::Unreachable))),
        "a start that takes all memory": with_fields("(func $s (drop (memory.grow (i32.const 1000)))) (start $s)")
            => NoWorld(WorldError::Instance(PolicyFault::OutOfMemory)),
        "data beyond the memory": with_fields("(data (i32.const 0x1ffff) \"ab\")") => NoWorld(WorldError::Instance(PolicyFault::Trap(Trapped::MemoryOutOfBounds))),
        "a policy of another kind": Guest::new(PolicyKind::Quota).module()
            => NoWorld(WorldError::OtherKind { asked: PolicyKind::Route, found: PolicyKind::Quota }),
        "functions of other types": component(OTHER_TYPES) => NoWorld(WorldError::Type { function: "describe", .. }),
        "an asynchronous function": async_component() => Compile(_),
    };
    assert!(count >= 30, "{count}");
    assert!(world.host.admit(&honest, PolicyKind::Route, PolicyClass::Fast).is_ok());
}

/// Everything in its place, but `describe` gives a number.
const OTHER_TYPES: &str = r#"(component
    (core module $m (func (export "f") (result i32) (i32.const 1)))
    (core instance $i (instantiate $m))
    (func $f (result u32) (canon lift (core func $i "f")))
    (instance $setup (export "describe" (func $f)) (export "configure" (func $f)))
    (instance $route (export "decide" (func $f)))
    (export "keyrelay:policy/setup@1.0.0" (instance $setup))
    (export "keyrelay:policy/route-policy@1.0.0" (instance $route)))"#;

fn async_component() -> Vec<u8> {
    component(
        r#"(component
        (core module $m (func (export "f") (result i32) (i32.const 1)) (func (export "c") (param i32 i32 i32) (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $f async (canon lift (core func $i "f") async (callback (func $i "c"))))
        (export "f" (func $f)))"#,
    )
}

#[test]
fn what_a_policy_says_of_itself_is_hostile_input() {
    let world = World::new();
    let with = |text: String| Guest { manifest: text, ..guest() }.module();
    let describing = |body: &str| Guest { describe: body.into(), ..guest() }.module();
    let mut other = manifest(PolicyKind::Route);
    other["imports"] = serde_json::json!(["env"]);
    let deep = format!("{}{}", "{\"settings\":".repeat(2000), "}".repeat(2000));
    let wide = format!("{{\"effects\":[{}]}}", vec!["\"deny\""; 3000].join(","));
    let with_schema = |schema: serde_json::Value| {
        let mut said = manifest(PolicyKind::Route);
        said["settings"] = schema;
        with(said.to_string())
    };
    use AdmissionError::{Describe, Manifest, Schema};
    let count = is_refused! { &world,
        "a loop": describing(HANG) => Describe(PolicyFault::OutOfFuel),
        "a trap": describing("unreachable") => Describe(PolicyFault::Trap(_)),
        "all memory": describing("(drop (memory.grow (i32.const 1000))) (i32.const 16)") => Describe(PolicyFault::OutOfMemory),
        "a text beyond the memory": describing("(i32.store (i32.const 20) (i32.const -1)) (i32.const 16)")
            => Describe(PolicyFault::InvalidOutput(InvalidOutput::Abi)),
        "a text that is not UTF-8": describing("(i32.store8 (i32.const 0x4003) (i32.const 255)) (i32.const 16)")
            => Describe(PolicyFault::InvalidOutput(InvalidOutput::Abi)),
        "a text of a hundred kilobytes": describing("(i32.store (i32.const 20) (i32.const 100000)) (i32.const 16)") => Manifest(ManifestError::TooLarge),
        "nothing": with(String::new()) => Manifest(ManifestError::Json(_)),
        "no JSON": with("policy".into()) => Manifest(ManifestError::Json(_)),
        "JSON of great depth": with(deep) => Manifest(ManifestError::Json(_)),
        "a list of great length": with(wide) => Manifest(ManifestError::Json(_)),
        "a member that nobody knows": with(other.to_string()) => Manifest(ManifestError::Json(_)),
        "another kind": with(manifest(PolicyKind::Expiry).to_string()) => Manifest(ManifestError::Kind { .. }),
        "a schema that is no schema": with_schema(json!({ "properties": { "a": { "type": "text" } } })) => Schema(_),
        "a schema of keywords that are not judged": with_schema(json!({ "dependentSchemas": {} })) => Schema(_),
    };
    assert_eq!(count, 14);
}

#[test]
fn settings_are_judged_by_the_schema_before_the_policy_is_asked() {
    let schema = json!({ "type": "object", "properties": { "limit": { "type": "integer", "minimum": 1 } } });
    let of = |configure: &str| {
        let mut said = manifest(PolicyKind::Route);
        said["settings"] = schema.clone();
        let guest = guest();
        Guest {
            manifest: said.to_string(),
            configure: if configure.is_empty() { guest.configure.clone() } else { configure.into() },
            ..guest
        }
    };
    let world = World::new();
    let (willing, trapping) = (world.module(&of("")), world.module(&of("unreachable")));
    assert_eq!(willing.configure(r#"{"limit":1}"#), Ok(()));
    let trapped = trapping.configure(r#"{"limit":1}"#);
    assert!(matches!(trapped, Err(ConfigureError::Fault(PolicyFault::Trap(_)))), "{trapped:?}");
    let fault = SettingsFault { code: SCHEMA_CODE.into(), path: Some("/limit".into()), detail: "0 is less than 1".into() };
    for module in [&willing, &trapping] {
        assert_eq!(module.configure(r#"{"limit":0}"#), Err(ConfigureError::Refused(vec![fault.clone()])));
    }
}

#[test]
fn a_module_says_itself_what_it_decides_on() {
    let world = World::new();
    for kind in PolicyKind::ALL {
        let guest = Guest::new(kind);
        assert_eq!(kind_of(&guest.module()), Some(kind));
        assert_eq!(kind_of(&world.admit(&guest).unwrap().component), Some(kind));
    }
    let honest = guest().module();
    let inner = r#"(component (component (export "keyrelay:policy/route-policy@1.0.0" (func (import "f" (func))))))"#;
    for nothing in [
        b"".as_slice(),
        b"\0asm\x0d\0\x01\0\xff",
        &honest[..honest.len() / 2],
        &component("(module)"),
        &wat::parse_str(inner).unwrap_or_default(),
    ] {
        assert_eq!(kind_of(nothing), None);
    }
}

#[test]
fn what_is_admitted_is_the_component_and_can_be_loaded_by_its_digest() {
    let world = World::new();
    let uploaded = guest().module();
    let admitted = world.host.admit(&uploaded, PolicyKind::Route, PolicyClass::Fast).unwrap();
    assert_eq!((admitted.digest, admitted.uploaded_digest), (Digest::blake3(&admitted.component), Digest::blake3(&uploaded)));
    assert_ne!(admitted.component, uploaded);
    // A component is taken as it is, and wrapping is the same every time.
    for again in [&admitted.component, &uploaded] {
        let again = world.host.admit(again, PolicyKind::Route, PolicyClass::Fast).unwrap();
        assert_eq!((again.digest, again.manifest), (admitted.digest, admitted.manifest.clone()));
    }
    let elsewhere = World::new();
    assert!(elsewhere.host.load_cached(&admitted.digest, PolicyKind::Route, PolicyClass::Fast).unwrap().is_none());
    let foreign = elsewhere.host.load(&admitted.digest, PolicyKind::Route, PolicyClass::Fast, &uploaded);
    assert!(matches!(foreign, Err(LoadError::Digest { .. })));
    let module = elsewhere.host.load(&admitted.digest, PolicyKind::Route, PolicyClass::Fast, &admitted.component).unwrap();
    let asked = input(PolicyKind::Route, 1);
    assert_eq!(module.decide(&asked).result, admitted.module.decide(&asked).result);
    assert_eq!(module.manifest(), &admitted.manifest);
}
