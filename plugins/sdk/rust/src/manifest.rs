//! What a policy says of itself: the host holds it to this.

use serde_json::{Value, json};

use crate::Effect;

/// What a policy decides on: the worlds of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Route,
    Quota,
    Expiry,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Quota => "quota",
            Self::Expiry => "expiry",
        }
    }

    /// `==`, in a constant.
    #[doc(hidden)]
    pub const fn is(self, other: Self) -> bool {
        self as u8 == other as u8
    }
}

/// A reason that a policy may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclaredReason {
    /// `area.detail`: what programs and metrics go by.
    pub code: &'static str,
    /// For people who read the manifest.
    pub text: &'static str,
}

/// What a policy says of itself. An answer with an effect, a reason, an obligation or an advice that is not declared is a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manifest {
    /// Of lower-case letters, digits and hyphens.
    pub name: &'static str,
    /// The author's, such as `1.0.0`.
    pub version: &'static str,
    pub kind: Kind,
    /// One sentence for operators.
    pub description: &'static str,
    /// The effects that a verdict may have.
    pub effects: &'static [Effect],
    pub reasons: &'static [DeclaredReason],
    /// The kinds of obligations that it may give: `cap_output`, `cap_parallel`, `tag_usage`, `pin_region`.
    pub obligations: &'static [&'static str],
    /// The kinds of advice: `rotate_key_by`, `warn`.
    pub advice: &'static [&'static str],
    /// The meters that it is given, `<scope>.<unit>.<window>` each: `key.micro_usd.day`. Quota only.
    pub meters: &'static [&'static str],
    /// Whether it is asked once more when the upstream, and so the price, is known. Quota only.
    pub asks_for_price: bool,
    /// A JSON Schema of the settings, such as `include_str!("../settings.schema.json")`.
    pub settings: &'static str,
}

impl Manifest {
    /// A manifest that declares nothing yet but that any effect may be given and that there are no settings.
    pub const fn new(kind: Kind) -> Self {
        Self {
            name: "",
            version: "1.0.0",
            kind,
            description: "",
            effects: &[Effect::Permit, Effect::Deny, Effect::NotApplicable],
            reasons: &[],
            obligations: &[],
            advice: &[],
            meters: &[],
            asks_for_price: false,
            settings: r#"{"type":"object","additionalProperties":false}"#,
        }
    }

    /// The manifest as `describe` gives it.
    ///
    /// # Panics
    ///
    /// Where the settings' schema is not JSON. The module is then refused at upload, and a unit test that calls this says why.
    pub fn to_json(&self) -> String {
        let settings: Value = serde_json::from_str(self.settings).expect("the settings' schema is JSON");
        let reasons: Vec<Value> = self.reasons.iter().map(|reason| json!({ "code": reason.code, "text": reason.text })).collect();
        let effects: Vec<&str> = self.effects.iter().map(|effect| effect_name(*effect)).collect();
        json!({
            "name": self.name,
            "version": self.version,
            "kind": self.kind.as_str(),
            "description": self.description,
            "effects": effects,
            "reasons": reasons,
            "obligations": self.obligations,
            "advice": self.advice,
            "meters": self.meters,
            "asks_for_price": self.asks_for_price,
            "settings": settings,
        })
        .to_string()
    }
}

const fn effect_name(effect: Effect) -> &'static str {
    match effect {
        Effect::Permit => "permit",
        Effect::Deny => "deny",
        Effect::NotApplicable => "not_applicable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_json_with_all_members() {
        let manifest = Manifest {
            name: "a",
            effects: &[Effect::NotApplicable],
            reasons: &[DeclaredReason { code: "a.b", text: "c" }],
            ..Manifest::new(Kind::Expiry)
        };
        let value: Value = serde_json::from_str(&manifest.to_json()).unwrap();
        assert_eq!(value["kind"], "expiry");
        assert_eq!(value["effects"], json!(["not_applicable"]));
        assert_eq!(value["reasons"], json!([{ "code": "a.b", "text": "c" }]));
        assert_eq!(value["settings"]["additionalProperties"], false);
        assert_eq!(value.as_object().unwrap().len(), 11);
    }
}
