//! Keeps requests in one region.

use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, RoutePolicy, Verdict, route};
use serde::Deserialize;

const NO_REGION: &str = "route.no_region";

struct Policy;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    region: String,
}

impl RoutePolicy for Policy {
    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        description: "Keeps requests in one region.",
        effects: &[Effect::Permit, Effect::Deny],
        reasons: &[DeclaredReason { code: NO_REGION, text: "no upstream stands in the region" }],
        settings: r#"{"type":"object","required":["region"],"additionalProperties":false,"properties":{"region":{"type":"string"}}}"#,
        ..Manifest::new(Kind::Route)
    };
    type Settings = Settings;

    fn decide(settings: &Settings, input: &route::Input) -> Result<route::Output, Fault> {
        let near = input.candidates.iter().filter(|candidate| candidate.region.as_ref() == Some(&settings.region));
        // The operator's own order stays: the candidates come in it.
        let picks: Vec<route::Pick> = near.zip(0..).map(|(candidate, rank)| candidate.ranked(rank)).collect();
        if picks.is_empty() {
            return Ok(Verdict::deny(NO_REGION).public("no upstream stands in the region").into());
        }
        Ok(route::Output::permit(picks))
    }
}

keyrelay_policy::export_route!(Policy);

#[cfg(test)]
mod tests {
    use keyrelay_policy::testing;

    use super::*;

    #[test]
    fn only_the_region_stays() {
        let mut input = testing::route_input();
        input.candidates[1].region = Some("eu".into());
        let settings = Settings { region: "eu".into() };
        let output = Policy::decide(&settings, &input).unwrap();
        assert_eq!(output.picks.iter().map(|pick| pick.id.as_str()).collect::<Vec<_>>(), ["up_b"]);
        input.candidates.pop();
        assert!(Policy::decide(&settings, &input).unwrap().verdict.is_deny());
    }
}
