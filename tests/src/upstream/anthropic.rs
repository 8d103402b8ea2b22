//! Anthropic: messages and models.

use serde_json::{Value, json};

use super::speech::Frames;
use super::{Behaviour, Counted, Dialect, id_of};

pub(super) struct Anthropic;

impl Dialect for Anthropic {
    fn error(&self, status: u16) -> String {
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        };
        json!({ "type": "error", "error": { "type": kind, "message": format!("scripted {status}") }, "request_id": "req_scripted" })
            .to_string()
    }

    fn models(&self) -> String {
        let model = json!({ "type": "model", "id": "claude-scripted", "display_name": "Scripted", "created_at": "2025-01-01T00:00:00Z" });
        json!({ "data": [model], "has_more": false, "first_id": "claude-scripted", "last_id": "claude-scripted" }).to_string()
    }

    fn whole(&self, request: &Value, behaviour: &Behaviour, counted: Counted) -> String {
        let content = if behaviour.tool_call {
            json!([{ "type": "tool_use", "id": "toolu_scripted", "name": "weather", "input": { "city": "Graz" } }])
        } else {
            json!([{ "type": "text", "text": behaviour.content() }])
        };
        let mut answer = envelope(request, content, Some(stop_reason(behaviour)), usage(counted, counted.output_tokens));
        if behaviour.unknown {
            answer["x_unknown"] = json!({ "kept": true });
        }
        answer.to_string()
    }

    fn stream(&self, request: Value, behaviour: Behaviour, counted: Counted) -> Frames {
        let start = event("message_start", json!({ "message": envelope(&request, json!([]), None, usage(counted, 1)) }));
        let block = if behaviour.tool_call {
            json!({ "type": "tool_use", "id": "toolu_scripted", "name": "weather", "input": {} })
        } else {
            json!({ "type": "text", "text": "" })
        };
        let block = event("content_block_start", json!({ "index": 0, "content_block": block }));
        let unknown = behaviour.unknown.then(|| event("x_unknown", json!({ "kept": true })));
        let stop = event("content_block_stop", json!({ "index": 0 }));
        let delta = json!({ "stop_reason": stop_reason(&behaviour), "stop_sequence": null });
        let last = event("message_delta", json!({ "delta": delta, "usage": { "output_tokens": counted.output_tokens } }));
        let end = event("message_stop", json!({}));
        let words = if behaviour.tool_call { 1 } else { behaviour.words };
        let said = (0..words).map(move |place| {
            let delta = if behaviour.tool_call {
                json!({ "type": "input_json_delta", "partial_json": "{\"city\":\"Graz\"}" })
            } else {
                json!({ "type": "text_delta", "text": behaviour.word(place) })
            };
            event("content_block_delta", json!({ "index": 0, "delta": delta }))
        });
        let head = [start, block, event("ping", json!({}))].into_iter().chain(unknown);
        Box::new(head.chain(said).chain([stop, last, end]))
    }
}

fn envelope(request: &Value, content: Value, stop_reason: Option<&str>, usage: Value) -> Value {
    json!({
        "id": format!("msg_{}", id_of(request)), "type": "message", "role": "assistant", "model": request["model"],
        "content": content, "stop_reason": stop_reason, "stop_sequence": null, "usage": usage,
    })
}

fn stop_reason(behaviour: &Behaviour) -> &'static str {
    if behaviour.tool_call { "tool_use" } else { "end_turn" }
}

/// Anthropic's parts are disjoint: `input_tokens` leaves out what was cached.
fn usage(counted: Counted, output_tokens: u64) -> Value {
    json!({
        "input_tokens": counted.input_tokens - counted.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counted.cached_tokens,
        "output_tokens": output_tokens,
    })
}

fn event(name: &str, mut body: Value) -> String {
    body["type"] = name.into();
    format!("event: {name}\ndata: {body}\n\n")
}
