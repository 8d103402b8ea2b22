//! From uploaded bytes to machine code, in a process of its own where it matters: a compiler fed with foreign code may take any time and memory.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};

use rustix::process::{Resource, Rlimit, setrlimit};
use schemas::policy::{PolicyClass, PolicyKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use crate::contract::{PACKAGE, VERSION};
use crate::engine;
use crate::limits::{CompileLimits, Limits};
use crate::manifest::shown;

/// The sub-command of the binary that compiles; what follows it is `--class` and the class.
pub const SUBCOMMAND: &str = "compile-policy";

/// A component and what the engine runs of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compiled {
    pub(crate) component: Vec<u8>,
    pub(crate) machine_code: Vec<u8>,
}

/// Why there is no machine code.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum CompileError {
    #[error("neither a component nor a module: {0}")]
    Malformed(String),
    #[error("the module cannot be made a component: {0}")]
    Encode(String),
    #[error("the component has more than {max} bytes{}", other_class(*max))]
    TooLarge { max: usize },
    #[error("the component has more than {max} functions")]
    TooManyFunctions { max: u32 },
    #[error("the component does not compile: {0}")]
    Refused(String),
    #[error("compiling took more time or memory than it may")]
    Overrun,
    #[error("the compiler could not be run: {0}")]
    Child(String),
}

/// What to do about a module that is too large for the class that it was uploaded as.
fn other_class(max: usize) -> &'static str {
    let is_fast = max == Limits::of(PolicyClass::Fast).component_bytes_max;
    if is_fast { ", the most of the class fast; one of JavaScript or Python needs the class slow" } else { "" }
}

/// What a module decides on, by the world whose exports it has; none if it is no policy's. Reads names only.
pub fn kind_of(uploaded: &[u8]) -> Option<PolicyKind> {
    if uploaded.len() > Limits::of(PolicyClass::Slow).component_bytes_max {
        return None;
    }
    let component = component(uploaded).ok()?;
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(&component) {
        match payload.ok()? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports {
                    let name = export.ok()?.name.name;
                    let is_of = |kind: &PolicyKind| name == format!("{PACKAGE}/{}-policy@{VERSION}", kind.as_str());
                    if let Some(kind) = PolicyKind::ALL.into_iter().find(is_of) {
                        return Some(kind);
                    }
                }
            }
            _ => {}
        }
    }
    None
}

/// Compiles on this thread, without any limit but those on size.
pub(crate) fn compile(uploaded: &[u8], class: PolicyClass) -> Result<Compiled, CompileError> {
    let limits = Limits::of(class);
    if uploaded.len() > limits.component_bytes_max {
        return Err(CompileError::TooLarge { max: limits.component_bytes_max });
    }
    let component = component(uploaded)?;
    if component.len() > limits.component_bytes_max {
        return Err(CompileError::TooLarge { max: limits.component_bytes_max });
    }
    let functions = functions(&component)?;
    if functions > limits.functions_max {
        return Err(CompileError::TooManyFunctions { max: limits.functions_max });
    }
    let engine = engine::compiling(class).map_err(|error| CompileError::Child(shown(&format!("{error:#}"))))?;
    let machine_code = engine.precompile_component(&component).map_err(|error| CompileError::Refused(shown(&format!("{error:#}"))))?;
    if machine_code.len() > limits.compile.machine_code_bytes_max {
        return Err(CompileError::TooLarge { max: limits.compile.machine_code_bytes_max });
    }
    Ok(Compiled { component, machine_code })
}

/// A core module, as `cargo build` makes it, is made a component by what it says of itself; a component stays as it is.
fn component(uploaded: &[u8]) -> Result<Vec<u8>, CompileError> {
    match uploaded.get(..8) {
        Some([b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0]) => Ok(uploaded.to_vec()),
        Some([b'\0', b'a', b's', b'm', 1, 0, 0, 0]) => {
            let encoded = ComponentEncoder::default().validate(true).module(uploaded).and_then(|mut encoder| encoder.encode());
            encoded.map_err(|error| CompileError::Encode(shown(&format!("{error:#}"))))
        }
        _ => Err(CompileError::Malformed("the first bytes are not WebAssembly's".into())),
    }
}

/// How many functions the modules of a component have together. Reads headers only.
fn functions(component: &[u8]) -> Result<u32, CompileError> {
    let mut functions = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload {
            Ok(Payload::CodeSectionStart { count, .. }) => functions = functions.saturating_add(count),
            Ok(_) => {}
            Err(error) => return Err(CompileError::Malformed(shown(&error.to_string()))),
        }
    }
    Ok(functions)
}

/// What `keyrelay compile-policy --class CLASS` runs: limits itself, reads the uploaded bytes, writes a component and its machine code.
///
/// What is wrong with the bytes is an answer too; an error is a pipe that broke, or a limit that could not be set.
pub fn compile_child(class: PolicyClass, mut uploaded: impl Read, mut compiled: impl Write) -> std::io::Result<()> {
    let limits = Limits::of(class);
    confine(&limits.compile)?;
    let mut bytes = Vec::new();
    // One more than allowed, so that what is too large is seen to be.
    uploaded.by_ref().take(limits.component_bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    let answer = compile(&bytes, class);
    let answer = postcard::to_allocvec(&answer).map_err(std::io::Error::other)?;
    compiled.write_all(&answer)?;
    compiled.flush()
}

/// Lowers this process's limits, for good.
fn confine(limits: &CompileLimits) -> std::io::Result<()> {
    let bounds = [
        (Resource::Cpu, limits.cpu.as_secs()),
        (Resource::As, limits.address_bytes),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nofile, 16),
    ];
    for (resource, max) in bounds {
        setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) })?;
    }
    Ok(())
}

/// Compiles in a child process with limits. Blocks until it is done, at most for the class's wall time.
pub(crate) fn compile_in_child(program: &Path, uploaded: &[u8], class: PolicyClass) -> Result<Compiled, CompileError> {
    let limits = Limits::of(class);
    if uploaded.len() > limits.component_bytes_max {
        return Err(CompileError::TooLarge { max: limits.component_bytes_max });
    }
    let mut command = Command::new(program);
    command.args([SUBCOMMAND, "--class", class.as_str()]).env_clear().current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| CompileError::Child(error.to_string()))?;
    let answer = exchange(&mut child, uploaded, limits);
    // Also when it answered: nothing of it is needed any more. It may be gone already.
    drop(child.kill());
    let status = child.wait().map_err(|error| CompileError::Child(error.to_string()))?;
    match answer? {
        Some(answer) if !answer.is_empty() => {
            postcard::from_bytes(&answer).map_err(|_| CompileError::Child(format!("its answer was cut off ({status})")))?
        }
        // Killed by a limit of its own, by us, or out of memory, which aborts.
        Some(_) | None => Err(CompileError::Overrun),
    }
}

/// The child's answer; none if it took too long.
fn exchange(child: &mut Child, uploaded: &[u8], limits: &Limits) -> Result<Option<Vec<u8>>, CompileError> {
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(CompileError::Child("no pipe to it".into()));
    };
    let bytes_max = limits.compile.machine_code_bytes_max + limits.component_bytes_max + 1024;
    std::thread::scope(|scope| {
        // A child that dies early breaks the pipe; what it answered, or that it did not, says why.
        scope.spawn(move || drop(input.write_all(uploaded)));
        let (sender, receiver) = channel();
        scope.spawn(move || {
            let mut answer = Vec::new();
            let read = output.take(bytes_max as u64).read_to_end(&mut answer);
            // The receiver waits until its deadline, and then needs no answer.
            drop(sender.send(read.map(|_| answer)));
        });
        let answer = match receiver.recv_timeout(limits.compile.wall) {
            Ok(answer) => answer.map(Some).map_err(|error| CompileError::Child(error.to_string())),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(None),
        };
        // Both threads end once the child's ends of the pipes are closed.
        drop(child.kill());
        answer
    })
}
