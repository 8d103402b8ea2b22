//! What an operator pastes: the address that the browser was sent back to, its query, or `code#state`. It is only parsed, never fetched.

use thiserror::Error;
use url::Url;
use url::form_urlencoded;
use zeroize::Zeroizing;

/// The most bytes of a paste.
pub(crate) const PASTE_BYTES_MAX: usize = 8 * 1024;
/// The most characters of what a provider says to a refusal.
const DENIAL_LENGTH_MAX: usize = 256;

/// Why a paste cannot be a provider's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum PasteError {
    #[error("what was pasted has more than {PASTE_BYTES_MAX} bytes")]
    TooLong,
    #[error("what was pasted is not a URL")]
    NotAUrl,
    /// A bare code among them: nothing would bind it to the login.
    #[error("Callback URL missing code or state parameter")]
    Incomplete,
    #[error("the callback URL has its {0} parameter twice")]
    Twice(&'static str),
}

/// A provider's answer, as the browser brought it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pasted {
    pub(crate) state: Zeroizing<String>,
    pub(crate) outcome: Outcome,
    /// The provider's own name, where it sends it (RFC 9207).
    pub(crate) issuer: Option<String>,
    /// Where the browser was, without query and fragment; none where that was not pasted.
    pub(crate) address: Option<Url>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Code(Zeroizing<String>),
    /// What the provider says, as plain text.
    Denied(String),
}

impl std::fmt::Debug for Pasted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pasted")
    }
}

pub(crate) fn parse(text: &str) -> Result<Pasted, PasteError> {
    if text.len() > PASTE_BYTES_MAX {
        return Err(PasteError::TooLong);
    }
    let text = text.trim();
    if text.contains("://") && !text.starts_with("code=") && !text.starts_with("?") {
        let mut url = Url::parse(text).map_err(|_| PasteError::NotAUrl)?;
        let pasted = of_query(url.query().unwrap_or_default())?;
        url.set_query(None);
        url.set_fragment(None);
        return Ok(Pasted { address: Some(url), ..pasted });
    }
    if text.contains('=') {
        let query = text.split('#').next().unwrap_or_default();
        return of_query(query.trim_start_matches('?'));
    }
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    match text.split_once('#') {
        Some((code, state)) if plain(code) && plain(state) => Ok(Pasted {
            state: Zeroizing::new(state.to_owned()),
            outcome: Outcome::Code(Zeroizing::new(code.to_owned())),
            issuer: None,
            address: None,
        }),
        _ => Err(PasteError::Incomplete),
    }
}

fn of_query(query: &str) -> Result<Pasted, PasteError> {
    let (mut code, mut state, mut error, mut description, mut issuer) = (None, None, None, None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let (place, name) = match &*name {
            "code" => (&mut code, "code"),
            "state" => (&mut state, "state"),
            "error" => (&mut error, "error"),
            "error_description" => (&mut description, "error_description"),
            "iss" => (&mut issuer, "iss"),
            _ => continue,
        };
        if place.replace(Zeroizing::new(value.into_owned())).is_some() {
            return Err(PasteError::Twice(name));
        }
    }
    let given = |text: Option<Zeroizing<String>>| text.filter(|text| !text.is_empty());
    let outcome = match (given(code), given(error)) {
        (Some(_), Some(_)) | (None, None) => return Err(PasteError::Incomplete),
        (Some(code), None) => Outcome::Code(code),
        (None, Some(error)) => Outcome::Denied(plain(&error, description.as_deref().map(String::as_str))),
    };
    let state = given(state).ok_or(PasteError::Incomplete)?;
    Ok(Pasted { state, outcome, issuer: issuer.map(|issuer| issuer.to_string()), address: None })
}

fn plain(error: &str, description: Option<&str>) -> String {
    let text = description.map_or_else(|| error.to_owned(), |description| format!("{error}: {description}"));
    text.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>')).take(DENIAL_LENGTH_MAX).collect()
}

/// Whether the browser was where it was sent.
pub(crate) fn is_at(address: &Url, redirect_uri: &Url) -> bool {
    let place =
        |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default(), url.path().to_owned());
    let plain = address.username().is_empty() && address.password().is_none();
    plain && place(address) == place(redirect_uri)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use super::*;

    fn code_and_state(text: &str) -> Result<(String, String), PasteError> {
        let pasted = parse(text)?;
        let Outcome::Code(code) = pasted.outcome else { panic!("denied") };
        Ok((code.to_string(), pasted.state.to_string()))
    }

    #[test]
    fn a_url_a_query_and_a_code_with_its_state_are_understood() {
        let both = Ok(("c/1".to_owned(), "s".to_owned()));
        for text in [
            "http://127.0.0.1:8976/cb?code=c%2F1&state=s&scope=a",
            "  http://127.0.0.1:8976/cb?state=s&code=c%2F1#_=_\n",
            "code=c%2F1&state=s",
            "?state=s&code=c%2F1#",
            "c/1#s",
            "code=c%2F1&state=s&iss=https://id.example.com",
        ] {
            assert_eq!(code_and_state(text), both, "{text}");
        }
    }

    #[test]
    fn what_binds_no_code_to_a_login_is_refused() {
        for text in ["", "c", "c#", "#s", "c#s#t", "code=c", "state=s", "http://x/cb", "http://x/cb?code=c", "code=&state=s", "a b#s"] {
            assert_eq!(parse(text), Err(PasteError::Incomplete), "{text}");
        }
        assert_eq!(parse("code=c&state=s&code=d"), Err(PasteError::Twice("code")));
        assert_eq!(parse("http://x/cb?code=c&state=s&state=s"), Err(PasteError::Twice("state")));
        assert_eq!(parse("code=c&state=s&error=e"), Err(PasteError::Incomplete));
        assert_eq!(parse("://?code=c&state=s"), Err(PasteError::NotAUrl));
        assert_eq!(parse(&"x".repeat(PASTE_BYTES_MAX + 1)), Err(PasteError::TooLong));
    }

    #[test]
    fn a_refusal_is_told_as_short_plain_text() {
        let pasted = parse("error=access_denied&error_description=%3Cb%3Eno%3C%2Fb%3E%0A&state=s").unwrap();
        assert!(matches!(pasted.outcome, Outcome::Denied(text) if text == "access_denied: bno/b"));
        let long = parse(&format!("state=s&error={}", "e".repeat(1000))).unwrap();
        assert!(matches!(long.outcome, Outcome::Denied(text) if text.len() == DENIAL_LENGTH_MAX));
    }

    #[test]
    fn every_part_of_the_address_counts() {
        let sent = Url::parse("http://127.0.0.1:8976/cb").unwrap();
        for (text, same) in [
            ("http://127.0.0.1:8976/cb?x=1", true),
            ("HTTP://127.0.0.1:8976/cb", true),
            ("https://127.0.0.1:8976/cb", false),
            ("http://127.0.0.1:8977/cb", false),
            ("http://localhost:8976/cb", false),
            ("http://127.0.0.1:8976/cb/", false),
            ("http://me@127.0.0.1:8976/cb", false),
        ] {
            assert_eq!(is_at(&Url::parse(text).unwrap(), &sent), same, "{text}");
        }
    }
}
