//! A line of a binding.

use schemas::binding::{BindingCommand, BindingCreated, Bound, Mode, Scope};
use schemas::{Command, Stream};

use super::{Import, PrepareError, Prepared};
use crate::transfer::line::{BindingLine, ModeLine, ScopeLine};

impl Import {
    pub(super) fn binding(&self, line: &BindingLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::binding(line.tenant.clone(), line.id);
        let here = self.here(&stream)?;
        let created = BindingCreated { kind: line.kind, scope: self.scope(line.scope), bound: bound(line) };
        self.settle(stream, &here, Command::Binding(BindingCommand::Import(Box::new(created))), None, prepared)
    }

    fn scope(&self, scope: ScopeLine) -> Scope {
        match scope {
            ScopeLine::Tenant => Scope::Tenant,
            ScopeLine::Pool(pool) => Scope::Pool(self.pool(pool)),
            ScopeLine::Key(key) => Scope::Key(key),
        }
    }
}

fn bound(line: &BindingLine) -> Bound {
    let mode = match line.mode {
        ModeLine::Enforce => Mode::Enforce,
        ModeLine::Canary(percent) => Mode::Canary(percent),
        ModeLine::Shadow => Mode::Shadow,
        ModeLine::Off => Mode::Off,
    };
    Bound { policy: line.policy, settings: policy_host::canonical_json(&line.settings), mode, on_fault: line.on_fault }
}
