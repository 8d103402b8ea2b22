//! What `wit-bindgen` makes of the contract: one module for each interface that a policy exports.
//!
//! The only place with unsafe code: the generated functions that lift the input from the module's memory and lower the output into it.
//! Authors never call them; the `export_*` macros do. A world of the contract is `setup` and one other interface, and a module that exports
//! both says so in two sections, which the host reads as one.

pub mod setup {
    wit_bindgen::generate!({
        inline: "package keyrelay:sdk; world setup { export keyrelay:policy/setup@1.0.0; }",
        path: "../../wit",
        world: "keyrelay:sdk/setup",
        pub_export_macro: true,
        default_bindings_module: "keyrelay_policy::bindings::setup",
        additional_derives: [PartialEq],
        generate_all,
        generate_unused_types: true,
    });
}

pub mod route {
    wit_bindgen::generate!({
        inline: "package keyrelay:sdk; world route { export keyrelay:policy/route-policy@1.0.0; }",
        path: "../../wit",
        world: "keyrelay:sdk/route",
        pub_export_macro: true,
        default_bindings_module: "keyrelay_policy::bindings::route",
        additional_derives: [PartialEq],
        generate_all,
        with: { "keyrelay:policy/types@1.0.0": super::setup::keyrelay::policy::types },
    });
}

pub mod quota {
    wit_bindgen::generate!({
        inline: "package keyrelay:sdk; world quota { export keyrelay:policy/quota-policy@1.0.0; }",
        path: "../../wit",
        world: "keyrelay:sdk/quota",
        pub_export_macro: true,
        default_bindings_module: "keyrelay_policy::bindings::quota",
        additional_derives: [PartialEq],
        generate_all,
        with: { "keyrelay:policy/types@1.0.0": super::setup::keyrelay::policy::types },
    });
}

pub mod expiry {
    wit_bindgen::generate!({
        inline: "package keyrelay:sdk; world expiry { export keyrelay:policy/expiry-policy@1.0.0; }",
        path: "../../wit",
        world: "keyrelay:sdk/expiry",
        pub_export_macro: true,
        default_bindings_module: "keyrelay_policy::bindings::expiry",
        additional_derives: [PartialEq],
        generate_all,
        with: { "keyrelay:policy/types@1.0.0": super::setup::keyrelay::policy::types },
    });
}
