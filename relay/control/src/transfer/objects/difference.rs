//! What of an object would be another, named by its fields.

use std::collections::BTreeSet;

use schemas::aggregate::At;
use schemas::{Aggregate, Context, Event, Stream, apply};
use serde_json::Value;

/// What a sealed text has, whose parts are nobody's business.
const SEALED_MEMBER: &str = "bytes";

/// The fields of an object that the events would change, in words. What is sealed anew is told as if it were another text.
pub(super) fn told(state: Option<&Aggregate>, stream: &Stream, events: &[Event], context: &Context) -> String {
    let at = At { time: context.now, actor: context.actor };
    let after = events.iter().try_fold(state.cloned(), |state, event| apply(state, stream, event, &at).map(Some));
    let fields = match (state, after) {
        (Some(before), Ok(Some(after))) => fields(before, &after),
        _ => BTreeSet::new(),
    };
    if fields.is_empty() {
        // A decision that its own fold refuses, or one that only says what is there already.
        return format!("it differs: {}", events.iter().map(Event::name).collect::<Vec<_>>().join(", "));
    }
    format!("it differs in {}", fields.into_iter().collect::<Vec<_>>().join(", "))
}

fn fields(before: &Aggregate, after: &Aggregate) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let (Ok(before), Ok(after)) = (serde_json::to_value(before), serde_json::to_value(after)) {
        // The outermost member only says what kind of object it is.
        let inner = |value: Value| value.as_object().and_then(|kind| kind.values().next().cloned()).unwrap_or_default();
        gather(&inner(before), &inner(after), "", &mut found);
    }
    found
}

/// `details` groups what people know as fields of the object, and is not told.
fn gather(before: &Value, after: &Value, place: &str, found: &mut BTreeSet<String>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(ours), Value::Object(theirs)) if !ours.contains_key(SEALED_MEMBER) => {
            for name in ours.keys().chain(theirs.keys()) {
                let inner = if place.is_empty() || place == "details" { name.clone() } else { format!("{place}.{name}") };
                gather(ours.get(name).unwrap_or(&Value::Null), theirs.get(name).unwrap_or(&Value::Null), &inner, found);
            }
        }
        _ => {
            found.insert(place.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_fields_that_differ_are_named_and_no_others() {
        let (before, after) = (
            json!({ "details": { "name": "a", "tags": ["x"], "limits": { "concurrency": 1, "requests_per_minute": 5 } }, "renewed_at": null }),
            json!({ "details": { "name": "a", "tags": ["y"], "limits": { "concurrency": 2, "requests_per_minute": 5 } }, "renewed_at": 7 }),
        );
        let mut found = BTreeSet::new();
        gather(&before, &after, "", &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["limits.concurrency", "renewed_at", "tags"]);
    }
}
