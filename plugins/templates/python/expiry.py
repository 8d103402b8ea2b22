"""A key is good for so many days after it was made."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.expiry_policy import Input, Output
from wit_world.imports.types import Effect, Fault, Reason, Verdict

TOO_OLD = "key.too_old"
DAY_MS = 24 * 60 * 60 * 1000


class Setup(exports.Setup):
    def describe(self) -> str:
        return json.dumps({
            "name": "{{name}}",
            "version": "0.1.0",
            "kind": "expiry",
            "description": "A key is good for so many days after it was made.",
            "effects": ["permit", "deny"],
            "reasons": [{"code": TOO_OLD, "text": "the key is too old"}],
            "settings": {"type": "object", "additionalProperties": False, "required": ["days"], "properties": {"days": {"type": "integer", "minimum": 0}}},
        })

    def configure(self, settings: str) -> None:
        days = json.loads(settings).get("days")
        if not isinstance(days, int) or days < 0:
            raise Err([Fault("settings.invalid", "`days` is a whole number")])


class ExpiryPolicy(exports.ExpiryPolicy):
    def decide(self, input: Input) -> Output:
        until_ms = input.key.created_ms + json.loads(input.settings)["days"] * DAY_MS
        if input.now_ms >= until_ms:
            reason = Reason(TOO_OLD, "the key is too old", True)
            return Output(Verdict(Effect.DENY, [reason], [], []), None)
        return Output(Verdict(Effect.PERMIT, [], [], []), until_ms)
