//! Chat Completions: usage stands in the answer, or in one extra chunk of a stream with empty `choices`; some servers repeat it on
//! every chunk or put it on the last one, so the last wins.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Reading;
use super::json_scan::name;
use schemas::usage::TokenParts;

name!(USAGE, "usage");
name!(ERROR, "error");
name!(FINISH_REASON, "finish_reason");
name!(CONTENT, "content");
name!(REASONING_CONTENT, "reasoning_content");
name!(ARGUMENTS, "arguments");

const DONE: &[u8] = b"[DONE]";

#[derive(Deserialize)]
struct Chunk {
    model: Option<String>,
    choices: Option<Vec<IgnoredAny>>,
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Usage {
    /// Includes what was read from and written to a cache.
    prompt_tokens: Option<u64>,
    /// Includes reasoning.
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Default, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Usage {
    fn parts(self) -> TokenParts {
        let PromptDetails { cached_tokens, cache_write_tokens } = self.prompt_tokens_details.unwrap_or_default();
        let CompletionDetails { reasoning_tokens } = self.completion_tokens_details.unwrap_or_default();
        let cached = cached_tokens.unwrap_or(0).saturating_add(cache_write_tokens.unwrap_or(0));
        TokenParts {
            input_uncached: self.prompt_tokens.map(|prompt| prompt.saturating_sub(cached)),
            cache_read: cached_tokens,
            cache_write_5m: cache_write_tokens,
            cache_write_1h: None,
            output_visible: self.completion_tokens.map(|completion| completion.saturating_sub(reasoning_tokens.unwrap_or(0))),
            output_reasoning: reasoning_tokens,
        }
    }
}

/// Reads one event's data; true for the chunk that carries nothing but usage.
pub(super) fn read_event(reading: &mut Reading, data: &[u8]) -> bool {
    if data == DONE {
        reading.has_ended = true;
        return false;
    }
    reading.text_bytes += text_bytes(data);
    reading.has_finished |= FINISH_REASON.has_text(data);
    let has_usage = USAGE.has_object(data);
    if reading.model.is_some() && !has_usage && !ERROR.has_object(data) {
        return false;
    }
    let Ok(chunk) = serde_json::from_slice::<Chunk>(data) else { return false };
    let is_usage_only = chunk.usage.is_some() && chunk.choices.as_ref().is_some_and(Vec::is_empty);
    read(reading, chunk);
    is_usage_only
}

/// Reads an answer that is no stream.
pub(super) fn read_answer(reading: &mut Reading, text: &[u8]) {
    match serde_json::from_slice::<Chunk>(text) {
        Ok(answer) => read(reading, answer),
        Err(_) => reading.is_final = false,
    }
    if !reading.is_final {
        reading.text_bytes = text_bytes(text);
    }
}

fn read(reading: &mut Reading, chunk: Chunk) {
    if reading.model.is_none() {
        reading.model = chunk.model.filter(|model| !model.is_empty());
    }
    if let Some(usage) = chunk.usage {
        reading.tokens = usage.parts();
        reading.is_final = true;
    }
    reading.has_failed |= chunk.error.is_some();
}

fn text_bytes(json: &[u8]) -> u64 {
    [&CONTENT, &REASONING_CONTENT, &ARGUMENTS].into_iter().map(|name| name.text_bytes(json)).sum()
}
