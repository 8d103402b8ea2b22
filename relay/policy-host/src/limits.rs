//! Every bound of a policy, by class.

use std::time::Duration;

use schemas::policy::{PolicyClass, PolicyKind};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a policy of one class may use. A guest has at most all of it, whatever its module declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Of what is uploaded, and of the component that comes of it.
    pub component_bytes_max: usize,
    /// Of all linear memories of one instance together.
    pub memory_bytes_max: usize,
    /// Of one call. This is what decides: it runs out at the same instruction on every node.
    pub fuel: u64,
    /// The safety net below the fuel: processor time of the thread, so that a machine with too much to do makes no faults.
    pub time_max: Duration,
    /// The net below that one, by the clock on the wall.
    pub wall_max: Duration,
    /// Core instances of one component.
    pub instances_max: usize,
    /// Core tables of one component.
    pub tables_max: usize,
    /// Entries of all tables of one instance together.
    pub table_entries_max: usize,
    /// Functions of one component, before it is compiled.
    pub functions_max: u32,
    pub compile: CompileLimits,
}

/// What compiling may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompileLimits {
    /// Processor time of the child.
    pub cpu: Duration,
    /// From start to end, in the parent's eyes.
    pub wall: Duration,
    /// Address space of the child.
    pub address_bytes: u64,
    pub machine_code_bytes_max: usize,
}

const FAST: Limits = Limits {
    component_bytes_max: MIB,
    memory_bytes_max: 4 * MIB,
    fuel: 2_000_000,
    time_max: Duration::from_millis(50),
    wall_max: Duration::from_secs(1),
    instances_max: 8,
    tables_max: 8,
    table_entries_max: 10_000,
    functions_max: 10_000,
    compile: CompileLimits {
        cpu: Duration::from_secs(30),
        wall: Duration::from_secs(120),
        address_bytes: 2 << 30,
        machine_code_bytes_max: 32 * MIB,
    },
};

const SLOW: Limits = Limits {
    component_bytes_max: 24 * MIB,
    memory_bytes_max: 128 * MIB,
    fuel: 50_000_000,
    time_max: Duration::from_secs(1),
    wall_max: Duration::from_secs(5),
    // What componentize-py makes has about 50 of both.
    instances_max: 64,
    tables_max: 64,
    table_entries_max: 60_000,
    functions_max: 100_000,
    compile: CompileLimits {
        cpu: Duration::from_secs(180),
        wall: Duration::from_secs(600),
        address_bytes: 6 << 30,
        machine_code_bytes_max: 256 * MIB,
    },
};

impl Limits {
    pub const fn of(class: PolicyClass) -> &'static Self {
        match class {
            PolicyClass::Fast => &FAST,
            PolicyClass::Slow => &SLOW,
        }
    }

    /// The processor time in ticks of the epoch.
    pub(crate) const fn ticks(&self) -> u64 {
        (self.time_max.as_millis() / TICK.as_millis()) as u64
    }
}

/// The most canonical bytes of an input. A route policy is given all candidates, some 200 bytes each.
pub const fn input_bytes_max(kind: PolicyKind) -> usize {
    match kind {
        PolicyKind::Expiry | PolicyKind::Quota => 32 * KIB,
        PolicyKind::Route => 256 * KIB,
    }
}

/// The most canonical bytes of an output, picks apart.
pub const OUTPUT_BYTES_MAX: usize = 8 * KIB;
/// The most canonical bytes that an output may have for each candidate of the input: an id, a rank, a weight.
pub const PICK_BYTES_MAX: usize = 64;
/// The most bytes that are copied from a guest in one call.
pub const LIFTED_BYTES_MAX: usize = 256 * KIB;
pub const REASONS_MAX: usize = 16;
pub const OBLIGATIONS_MAX: usize = 16;
pub const ADVICE_MAX: usize = 16;
/// The most faults that `configure` reports; more are cut off.
pub const FAULTS_MAX: usize = 32;
/// Ranks are below.
pub const RANK_MAX: u32 = 1_000_000;
/// The most weight of a pick, that of an upstream too.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// The most a guest's text may have, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// The most a name may have that a guest makes: a tag's, a region.
pub const NAME_BYTES_MAX: usize = 64;

/// How often the engines' epochs advance.
pub(crate) const TICK: Duration = Duration::from_millis(25);
