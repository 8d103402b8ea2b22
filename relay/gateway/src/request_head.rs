//! The few fields of a request's body that the relay reads. The body itself is forwarded as bytes, never written anew.
//!
//! Of a field that stands twice the last counts, as in the JSON parsers of the providers. `model` is the exception: keys are limited by
//! it, so two different ones are refused instead of hoping that every upstream picks the one that was checked.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use schemas::upstream::Dialect;

use crate::refusal::BodyFault;
use crate::splice::Splice;

/// A schema nests two levels of JSON for each of its own, so this is thirty levels of a tool's schema.
pub(crate) const DEPTH_MAX: usize = 64;

const OPTION: &str = r#""include_usage":true"#;

/// What stands in the body, borrowed from it.
#[derive(Debug)]
pub(crate) struct RequestHead<'a> {
    pub(crate) model: Cow<'a, str>,
    pub(crate) stream: bool,
    stream_options: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    /// How many answers are asked for, each of which may have the bound's length.
    choices: u64,
}

impl<'a> RequestHead<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, BodyFault> {
        let fields: Fields<'a> = serde_json::from_slice(body).map_err(|error| match error.classify() {
            // The text of a data error may quote the body; its place may not.
            _ if error.to_string().starts_with(MODEL_TWICE) => BodyFault::ModelTwice,
            _ => BodyFault::Json { line: error.line(), column: error.column() },
        })?;
        if is_deeper_than(body, DEPTH_MAX) {
            return Err(BodyFault::TooDeep);
        }
        let Fields { model, stream, stream_options, max_tokens, max_completion_tokens, choices } = fields;
        let model = model.ok_or(BodyFault::ModelMissing)?;
        let stream = stream.is_some_and(|raw| raw.get() == "true");
        let choices = choices.and_then(|raw| raw.get().parse().ok()).filter(|count| *count > 0).unwrap_or(1);
        Ok(Self { model, stream, stream_options, max_tokens, max_completion_tokens, choices })
    }

    /// The client's own bound on the tokens of all it is answered; none if it set none that can be read.
    pub(crate) fn output_tokens_max(&self, dialect: Dialect) -> Option<u64> {
        let bounds = self.bounds(dialect).into_iter().flatten();
        bounds.filter_map(|raw| raw.get().parse::<u64>().ok()).min().map(|bound| bound.saturating_mul(self.choices(dialect)))
    }

    /// What makes the body ask for no more tokens than this. Nothing where it asks for no more by itself.
    ///
    /// The bound is replaced where it stands, in every field that the dialect has for it. Where there is none it is set, in the field that the
    /// provider documents. Where several answers are asked for, each gets its share.
    pub(crate) fn capped(&self, body: &[u8], dialect: Dialect, tokens: u64) -> Vec<Splice> {
        let share = (tokens / self.choices(dialect)).max(1);
        let mut present = self.bounds(dialect).into_iter().flatten().peekable();
        if present.peek().is_none() {
            let field = match dialect {
                Dialect::Openai => "max_completion_tokens",
                Dialect::Anthropic => "max_tokens",
            };
            return Splice::first_member(body, format!(r#""{field}":{share},"#)).into_iter().collect();
        }
        // A bound that is no number is no bound.
        let is_within = |raw: &RawValue| raw.get().parse::<f64>().is_ok_and(|bound| bound <= share as f64);
        let over = present.filter(|raw| !is_within(raw));
        over.map(|raw| Splice { at: offset(body, raw), replaced: raw.get().len(), text: share.to_string() }).collect()
    }

    /// The fields in which a dialect has a bound on the answer.
    fn bounds(&self, dialect: Dialect) -> [Option<&'a RawValue>; 2] {
        match dialect {
            Dialect::Openai => [self.max_completion_tokens, self.max_tokens],
            Dialect::Anthropic => [self.max_tokens, None],
        }
    }

    fn choices(&self, dialect: Dialect) -> u64 {
        match dialect {
            Dialect::Openai => self.choices,
            Dialect::Anthropic => 1,
        }
    }

    /// What sets the option that makes an OpenAI upstream report usage at the end of a stream; none where the client asked for it itself, so
    /// that nothing is to be hidden from it, and where `stream_options` is no object and the upstream will say so.
    ///
    /// An explicit `false` is replaced like an absent one: the client does not see the extra chunk either way, and a key's use is not
    /// metered less well because its holder would rather not.
    pub(crate) fn usage_option(&self, body: &[u8]) -> Option<Splice> {
        let splice = |at, replaced, text| Some(Splice { at, replaced, text });
        match self.stream_options {
            None => Splice::first_member(body, format!(r#""stream_options":{{{OPTION}}},"#)),
            Some(options) if options.get() == "null" => splice(offset(body, options), "null".len(), format!("{{{OPTION}}}")),
            Some(options) => {
                let inner: StreamOptions<'_> = serde_json::from_str(options.get()).ok()?;
                match inner.include_usage {
                    None if inner.is_empty => splice(offset(body, options) + 1, 0, OPTION.to_owned()),
                    None => splice(offset(body, options) + 1, 0, format!("{OPTION},")),
                    Some(value) if matches!(value.get(), "false" | "null") => {
                        splice(offset(body, value), value.get().len(), "true".to_owned())
                    }
                    Some(_) => None,
                }
            }
        }
    }
}

/// Where a value that was borrowed from the body stands in it.
fn offset(body: &[u8], value: &RawValue) -> usize {
    value.get().as_ptr().addr() - body.as_ptr().addr()
}

/// Whether arrays and objects of a valid JSON text nest deeper than this.
fn is_deeper_than(json: &[u8], depth_max: usize) -> bool {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => at += string_length(&json[at + 1..]) + 1,
            _ => {}
        }
        if depth > depth_max {
            return true;
        }
        at += 1;
    }
    false
}

/// The bytes before the quote that ends a JSON string, from behind the one that began it; all bytes if there is none.
pub(crate) fn string_length(rest: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr2(b'"', b'\\', rest.get(at..).unwrap_or_default()) {
        at += found;
        if rest[at] == b'"' {
            return at;
        }
        at += 2;
    }
    rest.len()
}

const MODEL_TWICE: &str = "two models";

struct Fields<'a> {
    model: Option<Cow<'a, str>>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    choices: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    #[serde(rename = "n")]
    Choices,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields {
                    model: None,
                    stream: None,
                    stream_options: None,
                    max_tokens: None,
                    max_completion_tokens: None,
                    choices: None,
                };
                while let Some(field) = map.next_key()? {
                    match field {
                        Field::Model => {
                            let Text(model) = map.next_value()?;
                            if fields.model.as_ref().is_some_and(|earlier| *earlier != model) {
                                return Err(de::Error::custom(MODEL_TWICE));
                            }
                            fields.model = Some(model);
                        }
                        Field::Stream => fields.stream = Some(map.next_value()?),
                        Field::StreamOptions => fields.stream_options = Some(map.next_value()?),
                        Field::MaxTokens => fields.max_tokens = Some(map.next_value()?),
                        Field::MaxCompletionTokens => fields.max_completion_tokens = Some(map.next_value()?),
                        Field::Choices => fields.choices = Some(map.next_value()?),
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct StreamOptions<'a> {
    include_usage: Option<&'a RawValue>,
    is_empty: bool,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum OptionField {
    IncludeUsage,
    #[serde(other)]
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for StreamOptions<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OptionsVisitor;

        impl<'de> Visitor<'de> for OptionsVisitor {
            type Value = StreamOptions<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StreamOptions<'de>, A::Error> {
                let mut options = StreamOptions { include_usage: None, is_empty: true };
                while let Some(field) = map.next_key()? {
                    options.is_empty = false;
                    match field {
                        OptionField::IncludeUsage => options.include_usage = Some(map.next_value()?),
                        OptionField::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(options)
            }
        }

        deserializer.deserialize_map(OptionsVisitor)
    }
}

#[cfg(test)]
#[path = "request_head_tests.rs"]
mod tests;
