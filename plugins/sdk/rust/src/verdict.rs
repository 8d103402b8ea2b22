//! Verdicts, said in few words.

use crate::{Advice, Attribute, Effect, Fault, Obligation, Reason, Verdict};

impl Verdict {
    const fn of(effect: Effect) -> Self {
        Self { effect, reasons: Vec::new(), obligations: Vec::new(), advice: Vec::new() }
    }

    /// The request may go on, as far as this policy is concerned.
    pub const fn permit() -> Self {
        Self::of(Effect::Permit)
    }

    /// The policy has nothing to say: the request goes on as if the policy were not bound.
    pub const fn not_applicable() -> Self {
        Self::of(Effect::NotApplicable)
    }

    /// The request is refused, whatever other policies say. The code must be declared in the manifest.
    pub fn deny(code: &str) -> Self {
        Self::of(Effect::Deny).because(code)
    }

    /// Adds a reason of nothing but its code, which must be declared in the manifest.
    #[must_use]
    pub fn because(mut self, code: &str) -> Self {
        self.reasons.push(Reason { code: code.to_owned(), text: None, is_public: false });
        self
    }

    /// Gives the last reason a text for operators.
    #[must_use]
    pub fn internal(self, text: impl Into<String>) -> Self {
        self.explain(text.into(), false)
    }

    /// Gives the last reason a text that the client is shown.
    #[must_use]
    pub fn public(self, text: impl Into<String>) -> Self {
        self.explain(text.into(), true)
    }

    fn explain(mut self, text: String, is_public: bool) -> Self {
        if let Some(reason) = self.reasons.last_mut() {
            reason.text = Some(text);
            reason.is_public = is_public;
        }
        self
    }

    /// The answer has at most so many tokens.
    #[must_use]
    pub fn cap_output(self, tokens: u64) -> Self {
        self.oblige(Obligation::CapOutput(tokens))
    }

    /// The key has at most so many requests under way.
    #[must_use]
    pub fn cap_parallel(self, requests: u32) -> Self {
        self.oblige(Obligation::CapParallel(requests))
    }

    /// The decision's record carries this tag, and is always kept.
    #[must_use]
    pub fn tag_usage(self, name: &str, value: &str) -> Self {
        self.oblige(Obligation::TagUsage(Attribute { name: name.to_owned(), value: value.to_owned() }))
    }

    /// Only upstreams of this region.
    #[must_use]
    pub fn pin_region(self, region: &str) -> Self {
        self.oblige(Obligation::PinRegion(region.to_owned()))
    }

    /// Adds what the relay must do for a permit to count. Its kind must be declared in the manifest.
    #[must_use]
    pub fn oblige(mut self, obligation: Obligation) -> Self {
        self.obligations.push(obligation);
        self
    }

    /// The key should be rotated by this moment, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn rotate_key_by(mut self, at_ms: i64) -> Self {
        self.advice.push(Advice::RotateKeyBy(at_ms));
        self
    }

    /// Tells operators something.
    #[must_use]
    pub fn warn(mut self, text: impl Into<String>) -> Self {
        self.advice.push(Advice::Warn(text.into()));
        self
    }
}

impl Fault {
    /// That the policy cannot decide.
    pub fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: code.into(), detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_all_that_it_was_told() {
        let verdict = Verdict::deny("quota.day").public("used up").because("quota.month").cap_output(5).warn("soon");
        assert_eq!(verdict.effect, Effect::Deny);
        assert_eq!(verdict.reasons[0], Reason { code: "quota.day".into(), text: Some("used up".into()), is_public: true });
        assert_eq!(verdict.reasons[1], Reason { code: "quota.month".into(), text: None, is_public: false });
        assert_eq!((verdict.obligations, verdict.advice), (vec![Obligation::CapOutput(5)], vec![Advice::Warn("soon".into())]));
    }
}
