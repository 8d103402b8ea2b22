//! The relay port of a node, as a client with a key calls it.

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::http::{Answer, Field, Http, Streaming};

/// A client of the relay listener, or of an upstream directly: both speak the same dialects.
#[derive(Clone)]
pub struct Relay {
    http: Http,
    origin: String,
}

impl Relay {
    pub fn new(origin: &str) -> Self {
        Self { http: Http::default(), origin: origin.to_owned() }
    }

    /// An OpenAI chat completion with one message.
    pub async fn chat(&self, secret: &str, content: &str) -> Result<Answer> {
        self.chat_body(secret, chat(content).to_string()).await
    }

    /// An OpenAI chat completion, byte for byte.
    pub async fn chat_body(&self, secret: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.open(CHAT, &[("authorization", &format!("Bearer {secret}"))], body).await?.whole().await
    }

    /// An OpenAI chat completion as a stream, up to the head of the answer.
    pub async fn chat_stream(&self, secret: &str, content: &str) -> Result<Streaming> {
        let mut body = chat(content);
        body["stream"] = true.into();
        self.open(CHAT, &[("authorization", &format!("Bearer {secret}"))], body.to_string()).await
    }

    /// An Anthropic message.
    pub async fn message(&self, secret: &str, content: &str) -> Result<Answer> {
        self.open(MESSAGES, &anthropic(secret), message(content).to_string()).await?.whole().await
    }

    /// An Anthropic message as a stream, up to the head of the answer.
    pub async fn message_stream(&self, secret: &str, content: &str) -> Result<Streaming> {
        let mut body = message(content);
        body["stream"] = true.into();
        self.open(MESSAGES, &anthropic(secret), body.to_string()).await
    }

    pub async fn open(&self, path: &str, fields: &[Field<'_>], body: impl Into<Bytes>) -> Result<Streaming> {
        let fields = [&[("content-type", "application/json")], fields].concat();
        self.http.open(Method::POST, &format!("{}{path}", self.origin), &fields, body).await
    }

    pub async fn get(&self, path: &str, fields: &[Field<'_>]) -> Result<Answer> {
        self.http.call(Method::GET, &format!("{}{path}", self.origin), fields, Bytes::new()).await
    }
}

pub const CHAT: &str = "/v1/chat/completions";
pub const MESSAGES: &str = "/v1/messages";
/// A model name that the default rules allow.
pub const MODEL: &str = "gpt-scripted";

/// The body of a chat completion with one message.
pub fn chat(content: &str) -> Value {
    json!({ "model": MODEL, "messages": [{ "role": "user", "content": content }] })
}

/// The body of an Anthropic message with one message.
pub fn message(content: &str) -> Value {
    json!({ "model": "claude-scripted", "max_tokens": 1000, "messages": [{ "role": "user", "content": content }] })
}

fn anthropic(secret: &str) -> [Field<'_>; 2] {
    [("x-api-key", secret), ("anthropic-version", "2023-06-01")]
}
