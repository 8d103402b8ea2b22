//! AWS Signature Version 4 of one request, with the headers that are given. Knows nothing of clocks and sockets.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, Tag, sign};

use super::aws::AwsKeys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// The path, percent-encoded as it is sent.
    pub(super) path: &'a str,
    /// The query in canonical form: encoded, ordered by name.
    pub(super) query: &'a str,
    /// Lower-case names in order, with values as they are sent; `host` and `x-amz-date` are among them.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    /// `20150830T123600Z`, as in `x-amz-date`.
    pub(super) at: &'a str,
}

impl Signed<'_> {
    /// The value of the header `Authorization`.
    pub(super) fn authorization(&self, keys: &AwsKeys) -> String {
        let names = self.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let headers = self.headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect::<String>();
        let Self { method, path, query, region, service, at, body, .. } = self;
        let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{}", hex(digest(&SHA256, body).as_ref()));
        let day = at.split('T').next().unwrap_or_default();
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let to_sign = format!("{ALGORITHM}\n{at}\n{scope}\n{}", hex(digest(&SHA256, canonical.as_bytes()).as_ref()));
        let first = zeroize::Zeroizing::new(format!("AWS4{}", &*keys.secret_access_key).into_bytes());
        let key = [day, region, service, "aws4_request"]
            .iter()
            .fold(Key::new(HMAC_SHA256, &first), |key, part| Key::new(HMAC_SHA256, code(&key, part).as_ref()));
        let signature = hex(code(&key, &to_sign).as_ref());
        format!("{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", keys.access_key_id)
    }
}

fn code(key: &Key, text: &str) -> Tag {
    sign(key, text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a fixture may panic")]
mod tests {
    use super::{AwsKeys, Signed};
    use zeroize::Zeroizing;

    /// The keys of all examples that AWS publishes.
    fn keys() -> AwsKeys {
        AwsKeys {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: None,
        }
    }

    fn signature(signed: &Signed<'_>) -> String {
        signed.authorization(&keys()).rsplit('=').next().unwrap().to_owned()
    }

    #[test]
    fn the_example_of_the_user_guide_is_signed_alike() {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
        ];
        let signed = Signed {
            method: "GET",
            path: "/",
            query: "Action=ListUsers&Version=2010-05-08",
            headers: &headers,
            body: b"",
            region: "us-east-1",
            service: "iam",
            at: "20150830T123600Z",
        };
        let expected = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
                        SignedHeaders=content-type;host;x-amz-date, \
                        Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert_eq!(signed.authorization(&keys()), expected);
    }

    #[test]
    fn the_published_test_suite_is_signed_alike() {
        let cases = [
            ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ];
        for (method, expected) in cases {
            let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
            let signed = Signed {
                method,
                path: "/",
                query: "",
                headers: &headers,
                body: b"",
                region: "us-east-1",
                service: "service",
                at: "20150830T123600Z",
            };
            assert_eq!(signature(&signed), expected, "{method}-vanilla");
        }
    }
}
