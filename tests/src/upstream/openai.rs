//! OpenAI: chat completions and models.

use serde_json::{Value, json};

use super::speech::Frames;
use super::{Behaviour, Counted, Dialect, id_of};

pub(super) struct OpenAi;

/// A moment that never changes, so that answers can be compared.
const CREATED: u64 = 1_700_000_000;

impl Dialect for OpenAi {
    fn error(&self, status: u16) -> String {
        let kind = match status {
            401 => "authentication_error",
            429 => "rate_limit_exceeded",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "message": format!("scripted {status}"), "type": kind, "param": null, "code": format!("scripted_{status}") } })
            .to_string()
    }

    fn models(&self) -> String {
        let model = |id| json!({ "id": id, "object": "model", "created": CREATED, "owned_by": "scripted" });
        json!({ "object": "list", "data": [model("gpt-scripted"), model("gpt-scripted-mini")] }).to_string()
    }

    fn whole(&self, request: &Value, behaviour: &Behaviour, counted: Counted) -> String {
        let message = if behaviour.tool_call {
            json!({ "role": "assistant", "content": null, "refusal": null, "tool_calls": [tool_call()] })
        } else {
            json!({ "role": "assistant", "content": behaviour.content(), "refusal": null })
        };
        let finish = if behaviour.tool_call { "tool_calls" } else { "stop" };
        let mut answer = json!({
            "id": format!("chatcmpl-{}", id_of(request)), "object": "chat.completion", "created": CREATED, "model": request["model"],
            "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": finish }],
            "system_fingerprint": "fp_scripted",
        });
        if behaviour.usage {
            answer["usage"] = usage(counted);
        }
        if behaviour.unknown { odd(&answer) } else { answer.to_string() }
    }

    fn stream(&self, request: Value, behaviour: Behaviour, counted: Counted) -> Frames {
        let wants_usage = behaviour.usage && request["stream_options"]["include_usage"] == true;
        let id = format!("chatcmpl-{}", id_of(&request));
        let model = request["model"].clone();
        let odd_spelling = behaviour.unknown;
        let chunk = move |choices: Value, usage: Value| {
            let mut chunk = json!({
                "id": id, "object": "chat.completion.chunk", "created": CREATED, "model": model,
                "system_fingerprint": "fp_scripted", "choices": choices,
            });
            if wants_usage {
                chunk["usage"] = usage;
            }
            format!("data: {}\n\n", if odd_spelling { odd(&chunk) } else { chunk.to_string() })
        };
        let delta = |delta: Value, finish: Value| json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        let first = chunk(delta(json!({ "role": "assistant", "content": "", "refusal": null }), Value::Null), Value::Null);
        let finish = if behaviour.tool_call { "tool_calls" } else { "stop" };
        let last = chunk(delta(json!({}), finish.into()), Value::Null);
        let total = wants_usage.then(|| chunk(json!([]), usage(counted)));
        let words = if behaviour.tool_call { 1 } else { behaviour.words };
        let said = (0..words).map(move |place| {
            let mut call = tool_call();
            call["index"] = 0.into();
            let said = if behaviour.tool_call { json!({ "tool_calls": [call] }) } else { json!({ "content": behaviour.word(place) }) };
            chunk(delta(said, Value::Null), Value::Null)
        });
        let end = [last].into_iter().chain(total).chain(["data: [DONE]\n\n".to_owned()]);
        Box::new([first].into_iter().chain(said).chain(end))
    }
}

fn tool_call() -> Value {
    json!({ "id": "call_scripted", "type": "function", "function": { "name": "weather", "arguments": "{\"city\":\"Graz\"}" } })
}

fn usage(counted: Counted) -> Value {
    json!({
        "prompt_tokens": counted.input_tokens,
        "completion_tokens": counted.output_tokens,
        "total_tokens": counted.input_tokens + counted.output_tokens,
        "prompt_tokens_details": { "cached_tokens": counted.cached_tokens },
        "completion_tokens_details": { "reasoning_tokens": counted.reasoning_tokens },
    })
}

/// The same JSON with unknown members in a spelling that no serialiser produces: blanks, escapes, exponents.
fn odd(value: &Value) -> String {
    let text = value.to_string();
    let members = text.strip_prefix('{').unwrap_or(&text);
    format!("{{ \"x_unknown\" :\t{{\"n\": 1.0e+2, \"t\":\"\\u0041\\/\", \"big\": 12345678901234567890123}} , {members}")
}
