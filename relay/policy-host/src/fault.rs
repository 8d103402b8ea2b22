//! How a policy fails. Only the host says so, and only the binding's `on_fault` says what that means for the request.

use thiserror::Error;

use crate::contract;

/// Why an evaluation gave no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyFault {
    #[error("the policy trapped: {}", .0.as_str())]
    Trap(Trapped),
    #[error("the policy used up its fuel")]
    OutOfFuel,
    #[error("the policy asked for more memory than its class has")]
    OutOfMemory,
    /// The safety net below the fuel: depends on the machine's load.
    #[error("the policy did not answer in time")]
    Timeout,
    /// What came back breaks the contract.
    #[error("the policy's output is refused: {}", .0.as_str())]
    InvalidOutput(InvalidOutput),
    /// The input is over its cap, or is no input of the policy's kind.
    #[error("the input is over its cap, or of another kind")]
    InvalidInput,
    /// The policy itself says that it cannot decide.
    #[error("the policy declared a fault: {}", .0.code)]
    Declared(contract::Fault),
    /// All instances, or all places in the queue, are taken.
    #[error("too many policies are being evaluated")]
    Busy,
    #[error("the policy is not loaded on this node")]
    NotLoaded,
}

impl PolicyFault {
    /// The stable name, for records and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::OutOfFuel => "out_of_fuel",
            Self::OutOfMemory => "out_of_memory",
            Self::Timeout => "timeout",
            Self::InvalidOutput(_) => "invalid_output",
            Self::InvalidInput => "invalid_input",
            Self::Declared(_) => "declared",
            Self::Busy => "busy",
            Self::NotLoaded => "not_loaded",
        }
    }

    /// What a record keeps beside the code. A guest's own words are in it only for [`Self::Declared`], cut and escaped.
    pub fn detail(&self) -> String {
        match self {
            Self::Trap(trapped) => trapped.as_str().into(),
            Self::InvalidOutput(invalid) => invalid.as_str().into(),
            Self::Declared(fault) => format!("{}: {}", fault.code, fault.detail),
            Self::OutOfFuel | Self::OutOfMemory | Self::Timeout | Self::InvalidInput | Self::Busy | Self::NotLoaded => String::new(),
        }
    }

    /// Whether the same policy and input give the same fault on every run. A clock, a full queue and a missing module do not.
    pub const fn is_replayable(&self) -> bool {
        !matches!(self, Self::Timeout | Self::Busy | Self::NotLoaded)
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$about])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

codes! {
    /// The ways in which WebAssembly traps.
    Trapped {
        Unreachable = "unreachable",
        StackOverflow = "stack_overflow",
        MemoryOutOfBounds = "memory_out_of_bounds",
        TableOutOfBounds = "table_out_of_bounds",
        IndirectCall = "indirect_call",
        IntegerOverflow = "integer_overflow",
        DivisionByZero = "division_by_zero",
        BadConversion = "bad_conversion",
        Other = "other",
    }
}

codes! {
    /// What is wrong with an output.
    InvalidOutput {
        /// A pointer, a length, a text or a discriminant that the canonical ABI does not allow.
        Abi = "abi",
        /// More bytes, entries or characters than the caps allow.
        TooLarge = "too_large",
        /// A permit with other than permitted fields, or the reverse: picks of a denial, a retry time of a permit.
        Contradiction = "contradiction",
        UndeclaredEffect = "undeclared_effect",
        UndeclaredReason = "undeclared_reason",
        UndeclaredObligation = "undeclared_obligation",
        UndeclaredAdvice = "undeclared_advice",
        /// A pick that is no candidate of the input.
        UnknownCandidate = "unknown_candidate",
        RepeatedCandidate = "repeated_candidate",
        /// A rank or a weight over its bound.
        OutOfRange = "out_of_range",
        /// A charge on a meter that is not in the input.
        UnknownMeter = "unknown_meter",
        RepeatedMeter = "repeated_meter",
        /// A text with control characters, or a tag or region that is no name.
        Text = "text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_machine_decides_is_not_replayable() {
        let not = [PolicyFault::Timeout, PolicyFault::Busy, PolicyFault::NotLoaded];
        assert!(not.iter().all(|fault| !fault.is_replayable()));
        let declared = contract::Fault { code: "a".into(), detail: "b".into() };
        let replayable = [
            PolicyFault::Trap(Trapped::Unreachable),
            PolicyFault::OutOfFuel,
            PolicyFault::OutOfMemory,
            PolicyFault::InvalidOutput(InvalidOutput::Abi),
            PolicyFault::InvalidInput,
            PolicyFault::Declared(declared),
        ];
        assert!(replayable.iter().all(PolicyFault::is_replayable));
    }
}
