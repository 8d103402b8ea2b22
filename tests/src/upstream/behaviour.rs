//! What the upstream does with one request.

use serde::Deserialize;
use serde_json::Value;

use super::Counted;

/// One request's script: from a test's queue, or as JSON after `script:` in the request's last message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Answers with an error of this status, in the dialect.
    pub status: Option<u16>,
    /// Seconds of a `Retry-After` beside an error.
    pub retry_after: Option<u32>,
    /// How long the head of the answer takes.
    pub delay_ms: u64,
    /// How many words the answer has; a stream has one chunk per word, and a word is a token.
    pub words: u64,
    /// How long a word is, in bytes.
    pub word_bytes: usize,
    /// What it says, again and again; if nothing, words that count themselves.
    pub text: Option<String>,
    /// How long each chunk of a stream takes.
    pub drip_ms: u64,
    /// Breaks the connection after so many chunks.
    pub cut_after: Option<u64>,
    /// Holds the stream after so many chunks until the test lets go.
    pub hold_after: Option<u64>,
    /// Calls a tool instead of talking.
    pub tool_call: bool,
    /// Tokens of reasoning, counted with the answer and not shown.
    pub reasoning_tokens: u64,
    /// Tokens of the prompt that were in a cache.
    pub cached_tokens: u64,
    /// Adds fields that no SDK knows, and spells what it can in another way than a serialiser would.
    pub unknown: bool,
    /// Says what was used; off is a provider that does not.
    pub usage: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            status: None,
            retry_after: None,
            delay_ms: 0,
            words: 5,
            word_bytes: 6,
            text: None,
            drip_ms: 0,
            cut_after: None,
            hold_after: None,
            tool_call: false,
            reasoning_tokens: 0,
            cached_tokens: 0,
            unknown: false,
            usage: true,
        }
    }
}

impl Behaviour {
    /// An error of this status.
    pub fn error(status: u16) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// The script in a request's last message; none if there is none or it cannot be read.
    pub(super) fn in_message(request: &Value) -> Option<Self> {
        let message = request["messages"].as_array()?.last()?;
        let content = &message["content"];
        let content = content.as_str().or_else(|| content[0]["text"].as_str())?;
        serde_json::from_str(content.strip_prefix("script:")?).ok()
    }

    /// The usage that an answer to this request reports.
    pub(super) fn counted(&self, request: &Value) -> Counted {
        let prompt = request["messages"].to_string();
        let words = u64::try_from(prompt.split_whitespace().count()).unwrap_or(u64::MAX);
        Counted {
            requests: 1,
            input_tokens: words + 3 + self.cached_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.words + self.reasoning_tokens,
            reasoning_tokens: self.reasoning_tokens,
        }
    }

    /// The word at a place of the answer, a blank before it but for the first.
    pub(super) fn word(&self, place: u64) -> String {
        let spoken = self.text.as_ref().and_then(|text| text.split(' ').cycle().nth(usize::try_from(place).ok()?));
        let word = spoken.map_or_else(|| format!("{:x<width$}", format!("w{place}"), width = self.word_bytes), str::to_owned);
        if place == 0 { word } else { format!(" {word}") }
    }

    /// The whole answer.
    pub(super) fn content(&self) -> String {
        (0..self.words).map(|place| self.word(place)).collect()
    }
}
