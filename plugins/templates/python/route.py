"""Keeps requests in one region."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.route_policy import Input, Output, Pick
from wit_world.imports.types import Effect, Fault, Reason, Verdict

NO_REGION = "route.no_region"


class Setup(exports.Setup):
    def describe(self) -> str:
        return json.dumps({
            "name": "{{name}}",
            "version": "0.1.0",
            "kind": "route",
            "description": "Keeps requests in one region.",
            "effects": ["permit", "deny"],
            "reasons": [{"code": NO_REGION, "text": "no upstream stands in the region"}],
            "settings": {"type": "object", "additionalProperties": False, "required": ["region"], "properties": {"region": {"type": "string"}}},
        })

    def configure(self, settings: str) -> None:
        if not isinstance(json.loads(settings).get("region"), str):
            raise Err([Fault("settings.invalid", "`region` is a text")])


class RoutePolicy(exports.RoutePolicy):
    def decide(self, input: Input) -> Output:
        region = json.loads(input.settings)["region"]
        near = [candidate for candidate in input.candidates if candidate.region == region]
        if not near:
            reason = Reason(NO_REGION, "no upstream stands in the region", True)
            return Output(Verdict(Effect.DENY, [reason], [], []), [])
        picks = [Pick(candidate.id, rank, candidate.weight) for rank, candidate in enumerate(near)]
        return Output(Verdict(Effect.PERMIT, [], [], []), picks)
