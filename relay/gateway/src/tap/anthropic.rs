//! Messages: `message_start` tells the input and a placeholder of the output, `message_delta` the figures so far. They are cumulative:
//! what is told again replaces what was told before.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Reading;
use super::json_scan::name;
use schemas::usage::TokenParts;

name!(USAGE, "usage");
name!(ERROR, "error");
name!(TYPE, "type");
name!(TEXT, "text");
name!(THINKING, "thinking");
name!(PARTIAL_JSON, "partial_json");

const STOP: &[u8] = b"\"message_stop\"";

#[derive(Deserialize)]
struct Event {
    message: Option<Message>,
    model: Option<String>,
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Message {
    model: Option<String>,
    usage: Option<Usage>,
}

/// The provider's figures; input excludes what was read from or written to a cache.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Usage {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Debug, Deserialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl Usage {
    fn update(&mut self, told: Self) {
        self.input_tokens = told.input_tokens.or(self.input_tokens);
        self.cache_read_input_tokens = told.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens = told.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_creation = told.cache_creation.or(self.cache_creation.take());
        self.output_tokens = told.output_tokens.or(self.output_tokens);
        self.output_tokens_details = told.output_tokens_details.or(self.output_tokens_details.take());
    }

    fn parts(&self) -> TokenParts {
        let thinking = self.output_tokens_details.as_ref().and_then(|details| details.thinking_tokens);
        let (written_5m, written_1h) = match &self.cache_creation {
            None => (None, None),
            Some(split) => (split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens),
        };
        TokenParts {
            input_uncached: self.input_tokens,
            cache_read: self.cache_read_input_tokens,
            // The total may be told later than the split; what is not known to live an hour counts as five minutes.
            cache_write_5m: self.cache_creation_input_tokens.map(|all| all.saturating_sub(written_1h.unwrap_or(0))).or(written_5m),
            cache_write_1h: written_1h,
            output_visible: self.output_tokens.map(|output| output.saturating_sub(thinking.unwrap_or(0))),
            output_reasoning: thinking,
        }
    }
}

/// Reads one event's data.
pub(super) fn read_event(reading: &mut Reading, data: &[u8]) {
    reading.text_bytes += text_bytes(data);
    if TYPE.values(data).any(|value| value.starts_with(STOP)) {
        reading.has_ended = true;
    }
    if !USAGE.has_object(data) && !ERROR.has_object(data) {
        return;
    }
    let Ok(event) = serde_json::from_slice::<Event>(data) else { return };
    if let Some(message) = event.message {
        reading.model = message.model.or(reading.model.take());
        update(reading, message.usage);
    }
    if event.usage.as_ref().is_some_and(|usage| usage.output_tokens.is_some()) {
        reading.is_final = true;
    }
    update(reading, event.usage);
    reading.has_failed |= event.error.is_some();
}

/// Reads an answer that is no stream.
pub(super) fn read_answer(reading: &mut Reading, text: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<Event>(text) {
        reading.model = answer.model;
        reading.is_final = answer.usage.is_some();
        update(reading, answer.usage);
    }
    if !reading.is_final {
        reading.text_bytes = text_bytes(text);
    }
}

fn update(reading: &mut Reading, told: Option<Usage>) {
    if let Some(told) = told {
        reading.told.update(told);
        reading.tokens = reading.told.parts();
    }
}

fn text_bytes(json: &[u8]) -> u64 {
    [&TEXT, &THINKING, &PARTIAL_JSON].into_iter().map(|name| name.text_bytes(json)).sum()
}
