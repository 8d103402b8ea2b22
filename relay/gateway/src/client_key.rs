//! Finding the client key in a request, wherever its client's SDK puts it.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemas::client_key::ParseClientKeyError;
use url::form_urlencoded;

use crate::headers::X_API_KEY;
use crate::refusal::Refusal;

static BARE: [HeaderName; 3] = [X_API_KEY, HeaderName::from_static("x-goog-api-key"), HeaderName::from_static("api-key")];
const QUERY: &str = "key";

/// The one key that a request shows. The same key in two places is fine, two keys are refused: there is no silent choice.
pub(crate) fn find<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<Cow<'a, str>, Refusal> {
    let bearers = headers.get_all(header::AUTHORIZATION).iter().filter_map(bearer);
    let bare = BARE.iter().flat_map(|name| headers.get_all(name)).map(HeaderValue::as_bytes);
    let mut found: Option<Cow<'a, str>> = None;
    for shown in bearers.chain(bare).map(<[u8]>::trim_ascii).filter(|shown| !shown.is_empty()) {
        let shown = str::from_utf8(shown).map_err(|_| Refusal::KeyMalformed("it is not text"))?;
        merge(&mut found, Cow::Borrowed(shown))?;
    }
    for (name, value) in query.into_iter().flat_map(|query| form_urlencoded::parse(query.as_bytes())) {
        if name == QUERY && !value.is_empty() {
            merge(&mut found, value)?;
        }
    }
    let found = found.ok_or(Refusal::KeyMissing)?;
    match schemas::client_key::parse(&found) {
        // A text of another form may be a key that was brought along; only a look-up can tell.
        Ok(_) | Err(ParseClientKeyError::Prefix) => Ok(found),
        Err(ParseClientKeyError::Length) => Err(Refusal::KeyMalformed("it is cut short or has extra characters")),
        Err(ParseClientKeyError::Checksum) => Err(Refusal::KeyMalformed("it has a typing error")),
    }
}

/// The query without the key, other parts byte for byte; none if nothing is left.
pub(crate) fn scrub(query: &str) -> Option<Cow<'_, str>> {
    let is_key = |part: &str| form_urlencoded::parse(part.as_bytes()).any(|(name, _)| name == QUERY);
    if !query.split('&').any(is_key) {
        return (!query.is_empty()).then_some(Cow::Borrowed(query));
    }
    let kept: Vec<_> = query.split('&').filter(|part| !is_key(part)).collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest)
}

fn merge<'a>(found: &mut Option<Cow<'a, str>>, shown: Cow<'a, str>) -> Result<(), Refusal> {
    match found {
        Some(earlier) if *earlier != shown => Err(Refusal::KeysConflict),
        Some(_) => Ok(()),
        None => {
            *found = Some(shown);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_key_is_found_in_every_place() {
        for (name, value) in [
            ("authorization", "Bearer brought"),
            ("authorization", "bearer  brought "),
            ("x-api-key", "brought"),
            ("x-goog-api-key", "brought"),
            ("api-key", "brought"),
        ] {
            assert_eq!(find(&headers(&[(name, value)]), None).as_deref(), Ok("brought"), "{name}");
        }
        assert_eq!(find(&HeaderMap::new(), Some("a=b&key=br%6Fught")).as_deref(), Ok("brought"));
        // One that was brought may have spaces inside.
        assert_eq!(find(&headers(&[("authorization", "Bearer two words ")]), None).as_deref(), Ok("two words"));
        assert_eq!(find(&HeaderMap::new(), Some("key=two%20words")).as_deref(), Ok("two words"));
    }

    #[test]
    fn the_same_key_twice_is_one_and_two_keys_are_refused() {
        let twice = headers(&[("authorization", "Bearer brought"), ("x-api-key", "brought")]);
        assert_eq!(find(&twice, Some("key=brought")).as_deref(), Ok("brought"));
        assert_eq!(find(&twice, Some("key=other")), Err(Refusal::KeysConflict));
        let two = headers(&[("authorization", "Bearer brought"), ("x-api-key", "other")]);
        assert_eq!(find(&two, None), Err(Refusal::KeysConflict));
    }

    #[test]
    fn empty_and_foreign_schemes_are_no_key() {
        for (name, value) in [("authorization", "Basic abc"), ("authorization", "Bearer "), ("x-api-key", " "), ("authorization", "Bearer")]
        {
            assert_eq!(find(&headers(&[(name, value)]), Some("key=")), Err(Refusal::KeyMissing), "{name}: {value}");
        }
    }

    #[test]
    fn a_key_of_ours_with_a_typing_error_needs_no_look_up() {
        let text = schemas::client_key::format(schemas::KeyId::from_bytes([1; 16]), &[2; 32]).to_string();
        let mut wrong = text.clone();
        wrong.replace_range(60..61, if &text[60..61] == "a" { "b" } else { "a" });
        let shown = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_API_KEY, crate::headers::text(text));
            find(&headers, None).map(Cow::into_owned)
        };
        assert_eq!(shown(&text), Ok(text.clone()));
        assert_eq!(shown(&wrong), Err(Refusal::KeyMalformed("it has a typing error")));
        assert_eq!(shown(&text[..50]), Err(Refusal::KeyMalformed("it is cut short or has extra characters")));
    }

    #[test]
    fn the_key_is_scrubbed_from_a_query_and_nothing_else() {
        assert_eq!(scrub("beta=true").as_deref(), Some("beta=true"));
        assert_eq!(scrub("beta=true&key=secret&x=%20").as_deref(), Some("beta=true&x=%20"));
        assert_eq!(scrub("k%65y=secret").as_deref(), None);
        assert_eq!(scrub("key=secret&key=other").as_deref(), None);
        assert_eq!(scrub("monkey=1").as_deref(), Some("monkey=1"));
        assert_eq!(scrub("").as_deref(), None);
    }
}
