//! What a schema may say. Every member of it is looked at once, when its policy is admitted.

use serde_json::Value;

use super::{DEPTH_MAX, Schema, SchemaError, below};
use crate::manifest::shown;

/// The names of types.
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "integer", "string"];
/// Members that say nothing about what settings are right.
const REMARKS: [&str; 11] =
    ["$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format"];

impl<'a> Schema<'a> {
    /// Takes in a schema and all that are within it.
    pub(super) fn take(&mut self, schema: &'a Value, path: &str, depth: usize) -> Result<(), SchemaError> {
        let refuse = |path: &str, detail: &str| SchemaError { path: shown(path), detail: shown(detail) };
        if depth > DEPTH_MAX {
            return Err(refuse(path, &format!("there are more than {DEPTH_MAX} schemas within one another")));
        }
        let members = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(members) => members,
            _ => return Err(refuse(path, "a schema is an object or a boolean")),
        };
        for (keyword, value) in members {
            let at = below(path, keyword);
            let expect = |is_right: bool, what: &str| if is_right { Ok(()) } else { Err(refuse(&at, &format!("expected {what}"))) };
            match keyword.as_str() {
                "type" => expect(is_type(value), "a type, or a list of types")?,
                "enum" => expect(value.as_array().is_some_and(|values| !values.is_empty()), "a list of values")?,
                "required" => expect(is_names(value), "a list of names")?,
                "dependentRequired" => {
                    expect(value.as_object().is_some_and(|members| members.values().all(is_names)), "lists of names, by name")?;
                }
                "minProperties" | "maxProperties" | "minItems" | "maxItems" | "minLength" | "maxLength" => {
                    expect(value.is_u64(), "a whole number, not below 0")?;
                }
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => expect(value.is_number(), "a number")?,
                "multipleOf" => expect(value.as_f64().is_some_and(|number| number > 0.0), "a number above 0")?,
                "uniqueItems" => expect(value.is_boolean(), "true or false")?,
                "pattern" => {
                    let text = value.as_str().ok_or_else(|| refuse(&at, "expected a pattern"))?;
                    self.pattern(text).map_err(|why| refuse(&at, &why))?;
                }
                "$ref" => {
                    let referred = value.as_str().and_then(|reference| self.referred(reference));
                    expect(referred.is_some(), "`#`, or `#/$defs/` and the name of a schema that stands there")?;
                }
                "additionalProperties" | "propertyNames" | "items" | "contains" | "not" | "if" | "then" | "else" => {
                    self.take(value, &at, depth + 1)?;
                }
                "prefixItems" | "allOf" | "anyOf" | "oneOf" => {
                    let schemas = value.as_array().filter(|schemas| !schemas.is_empty());
                    for (place, schema) in schemas.ok_or_else(|| refuse(&at, "expected a list of schemas"))?.iter().enumerate() {
                        self.take(schema, &below(&at, &place.to_string()), depth + 1)?;
                    }
                }
                "properties" | "patternProperties" | "$defs" | "definitions" => {
                    for (name, schema) in value.as_object().ok_or_else(|| refuse(&at, "expected schemas by name"))? {
                        if keyword == "patternProperties" {
                            self.pattern(name).map_err(|why| refuse(&at, &why))?;
                        }
                        self.take(schema, &below(&at, name), depth + 1)?;
                    }
                }
                "const" => {}
                remark if REMARKS.contains(&remark) || remark.starts_with("x-") => {}
                _ => return Err(refuse(&at, "this keyword is not known here")),
            }
        }
        Ok(())
    }
}

fn is_type(value: &Value) -> bool {
    let is_one = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    is_one(value) || value.as_array().is_some_and(|names| !names.is_empty() && names.iter().all(is_one))
}

fn is_names(value: &Value) -> bool {
    value.as_array().is_some_and(|names| names.iter().all(Value::is_string))
}
