//! Session cookies of a provider's web site, which are refused as credentials: they are a person's whole session, cannot be limited, and cannot
//! be given back.

/// What is said of one.
pub(crate) const REFUSED: &str = "this is a session cookie, a person's whole session, which cannot be limited or given back; enter an API key, a \
                                  set-up token or a login";

/// Whether a text is such a cookie, by the forms that providers and frameworks give them. One in no such form is not told from a key.
pub(crate) fn is_session_cookie(text: &str) -> bool {
    let is_session =
        |name: &str| name.starts_with("__Secure-") || name.starts_with("__Host-") || name.to_ascii_lowercase().contains("session");
    // `name=value`; what ends in `=` alone is the padding of base64.
    let is_named = text.split_once('=').is_some_and(|(name, value)| is_session(name) && !value.trim_start_matches('=').is_empty());
    text.starts_with("sk-ant-sid") || is_named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_told_from_keys() {
        let cookies =
            ["sessionKey=sk-ant-sid01-abc", "sk-ant-sid01-abc", "__Secure-next-auth.session-token=ey.a.b", "__Host-auth=1", "JSESSIONID=1"];
        let keys = [
            "sk-ant-api03-abc",
            "sk-ant-oat01-abc",
            "sk-proj-abc",
            "AIzaSyA",
            "c2Vzc2lvbg==",
            "key=value",
            "session==",
            "eyJhbGciOiJub25lIn0.e30.",
        ];
        assert!(cookies.into_iter().all(is_session_cookie));
        assert!(!keys.into_iter().any(is_session_cookie));
    }
}
