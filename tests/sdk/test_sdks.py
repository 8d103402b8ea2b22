"""The official SDKs, unchanged: directly against an upstream and through the relay they see the same."""

import json
import time

import anthropic
import openai
import pytest

from conftest import CREDENTIAL

HELLO = [{"role": "user", "content": "Say hello to everyone."}]
TOOLS_OPENAI = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
TOOLS_ANTHROPIC = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]


def script(**behaviour):
    return [{"role": "user", "content": "script:" + json.dumps(behaviour)}]


class OpenAi:
    module = openai

    def __init__(self, origin, secret):
        self.client = openai.OpenAI(base_url=origin + "/v1", api_key=secret, max_retries=0, timeout=20)

    def plain(self, messages, **more):
        return self.client.chat.completions.create(model="gpt-scripted", messages=messages, **more)

    def stream(self, messages, **more):
        return [chunk.model_dump() for chunk in self.client.chat.completions.create(model="gpt-scripted", messages=messages, stream=True, **more)]

    def scenario(self):
        yield self.plain(HELLO).model_dump()
        yield self.plain(HELLO, temperature=0.5, extra_body={"x_unknown": [1, None]}).model_dump()
        yield self.plain(script(words=30, cached_tokens=500, reasoning_tokens=20)).model_dump()
        yield self.plain(script(tool_call=True), tools=TOOLS_OPENAI).model_dump()
        yield self.plain(script(unknown=True)).model_dump()
        yield self.stream(HELLO)
        yield self.stream(script(words=50, drip_ms=2))
        yield self.stream(script(tool_call=True), tools=TOOLS_OPENAI)
        yield self.stream(script(words=9, cached_tokens=7, reasoning_tokens=3), stream_options={"include_usage": True})
        yield self.stream(script(unknown=True))
        with self.client.chat.completions.stream(model="gpt-scripted", messages=HELLO) as stream:
            yield stream.get_final_completion().model_dump()


class Anthropic:
    module = anthropic

    def __init__(self, origin, secret):
        self.client = anthropic.Anthropic(base_url=origin, api_key=secret, max_retries=0, timeout=20)

    def plain(self, messages, **more):
        return self.client.messages.create(model="claude-scripted", max_tokens=500, messages=messages, **more)

    def stream(self, messages, **more):
        stream = self.client.messages.create(model="claude-scripted", max_tokens=500, messages=messages, stream=True, **more)
        return [event.model_dump() for event in stream]

    def scenario(self):
        yield self.plain(HELLO).model_dump()
        yield self.plain(HELLO, system="Be brief.", extra_body={"x_unknown": [1, None]}).model_dump()
        yield self.plain(script(words=30, cached_tokens=500)).model_dump()
        yield self.plain(script(tool_call=True), tools=TOOLS_ANTHROPIC).model_dump()
        yield self.plain(script(unknown=True)).model_dump()
        yield self.stream(HELLO)
        yield self.stream(script(words=50, drip_ms=2))
        yield self.stream(script(tool_call=True), tools=TOOLS_ANTHROPIC)
        with self.client.messages.stream(model="claude-scripted", max_tokens=500, messages=HELLO) as stream:
            yield stream.get_final_message().model_dump()


SDKS = [OpenAi, Anthropic]


@pytest.mark.parametrize("sdk", SDKS)
def test_the_same_objects_and_the_upstreams_own_count(sdk, upstream, node, key):
    direct = list(sdk(upstream.origin, CREDENTIAL).scenario())
    before = upstream.counted()
    through = list(sdk(node.relay, key["secret"]).scenario())
    after = upstream.counted()

    for expected, answer in zip(direct, through, strict=True):
        assert answer == expected

    used = {name: after[name] - before[name] for name in ("requests", "input_tokens", "output_tokens")}
    assert used["requests"] == len(direct)
    deadline = time.monotonic() + 20
    while (row := node.usage_of(key["key"]["id"]) or {"requests": 0})["requests"] < used["requests"]:
        assert time.monotonic() < deadline, f"usage stands at {row}, the upstream counted {used}"
    assert {name: row[name] for name in used} == used


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("status", [400, 404, 429, 500])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_exceptions(sdk, status, streamed, upstream, node):
    raised = []
    for origin, secret in ((upstream.origin, CREDENTIAL), (node.relay, node.new_key()["secret"])):
        client = sdk(origin, secret)
        with pytest.raises(sdk.module.APIStatusError) as caught:
            (client.stream if streamed else client.plain)(script(status=status))
        raised.append(caught.value)
    direct, through = raised
    assert type(through) is type(direct)
    assert through.status_code == direct.status_code == status
    assert through.body == direct.body
    assert str(through) == str(direct)


@pytest.mark.parametrize("sdk", SDKS)
def test_a_wrong_key_is_an_authentication_error(sdk, upstream, node):
    for origin, secret in ((upstream.origin, "sk-wrong"), (node.relay, "sk-kr-wrong")):
        with pytest.raises(sdk.module.AuthenticationError) as caught:
            sdk(origin, secret).plain(HELLO)
        assert caught.value.status_code == 401


@pytest.mark.parametrize("sdk", SDKS)
def test_a_revoked_key_is_an_authentication_error(sdk, node, key):
    client = sdk(node.relay, key["secret"])
    client.plain(HELLO)
    node.call("POST", f"/keys/{key['key']['id']}/revoke", {})
    with pytest.raises(sdk.module.AuthenticationError):
        client.plain(HELLO)


@pytest.mark.parametrize("sdk", SDKS)
def test_a_limit_is_a_rate_limit_error(sdk, node):
    client = sdk(node.relay, node.new_key(limits={"requests_per_minute": 1})["secret"])
    client.plain(HELLO)
    with pytest.raises(sdk.module.RateLimitError):
        client.plain(HELLO)


@pytest.mark.parametrize("sdk", SDKS)
def test_a_model_that_is_not_allowed_is_a_permission_error(sdk, node):
    client = sdk(node.relay, node.new_key(models=["another-*"])["secret"])
    with pytest.raises(sdk.module.PermissionDeniedError):
        client.plain(HELLO)


@pytest.mark.parametrize("sdk", SDKS)
def test_models_are_listed(sdk, node, key):
    names = [model.id for model in sdk(node.relay, key["secret"]).client.models.list()]
    assert all(isinstance(name, str) for name in names)
