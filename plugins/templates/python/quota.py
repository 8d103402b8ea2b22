"""So many requests a day for each key."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.quota_policy import Input, Output
from wit_world.imports.types import Effect, Fault, Reason, Verdict

DAY = "quota.day"
METER = "key.requests.day"


class Setup(exports.Setup):
    def describe(self) -> str:
        return json.dumps({
            "name": "{{name}}",
            "version": "0.1.0",
            "kind": "quota",
            "description": "So many requests a day for each key.",
            "effects": ["deny", "not_applicable"],
            "reasons": [{"code": DAY, "text": "the day's requests are used up"}],
            "meters": [METER],
            "settings": {
                "type": "object",
                "additionalProperties": False,
                "required": ["requests_per_day"],
                "properties": {"requests_per_day": {"type": "integer", "minimum": 0}},
            },
        })

    def configure(self, settings: str) -> None:
        most = json.loads(settings).get("requests_per_day")
        if not isinstance(most, int) or most < 0:
            raise Err([Fault("settings.invalid", "`requests_per_day` is a whole number")])


class QuotaPolicy(exports.QuotaPolicy):
    def decide(self, input: Input) -> Output:
        most = json.loads(input.settings)["requests_per_day"]
        meter = next((meter for meter in input.meters if meter.name == METER), None)
        if meter is None:
            raise Err(Fault("quota.no_meter", METER))
        if meter.used + meter.reserved < most:
            return Output(Verdict(Effect.NOT_APPLICABLE, [], [], []), [], None)
        wait_ms = None if meter.resets_ms is None else meter.resets_ms - input.now_ms
        reason = Reason(DAY, "the day's requests are used up", True)
        return Output(Verdict(Effect.DENY, [reason], [], []), [], wait_ms)
