//! AWS Secrets Manager.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use schemas::Timestamp;

use super::exchange::{Exchange, authority};
use super::signature::Signed;
use super::{SourceError, SourceSecret, Unsafe, pick};

const SERVICE: &str = "secretsmanager";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const TARGET: &str = "secretsmanager.GetSecretValue";

/// What requests are signed with.
#[derive(Clone)]
pub struct AwsKeys {
    pub access_key_id: String,
    pub secret_access_key: Zeroizing<String>,
    /// Goes with keys that are good for a while only.
    pub session_token: Option<Zeroizing<String>>,
}

/// Secrets Manager of one region.
pub struct SecretsManager {
    exchange: Exchange,
    endpoint: Url,
    region: String,
    keys: AwsKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    secret_string: Option<String>,
    version_id: String,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(rename = "__type")]
    kind: Option<String>,
}

impl SecretsManager {
    /// `endpoint` is another one than the region's own. Fails where the region is not a name.
    pub fn new(exchange: Exchange, region: String, endpoint: Option<Url>, keys: AwsKeys) -> Result<Self, SourceError> {
        let is_name = !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let own = || {
            let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("https://{SERVICE}.{region}.{suffix}/").parse().ok()
        };
        let endpoint = endpoint.or_else(own).filter(|_| is_name).ok_or(SourceError::Address(Unsafe::Malformed))?;
        Ok(Self { exchange, endpoint, region, keys })
    }

    /// The version of a secret that a stage is on: `AWSCURRENT`, `AWSPENDING`, `AWSPREVIOUS` or one of the operator's.
    pub(super) async fn read(&self, id: &str, field: Option<&str>, stage: &str, now: Timestamp) -> Result<SourceSecret, SourceError> {
        let body = Zeroizing::new(json!({ "SecretId": id, "VersionStage": stage }).to_string().into_bytes());
        let malformed = || SourceError::Address(Unsafe::Malformed);
        let host = authority(&self.endpoint).ok_or_else(malformed)?;
        let at = jiff::Timestamp::from_second(i64::try_from(now.as_seconds()).map_err(|_| malformed())?).map_err(|_| malformed())?;
        let at = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut headers = vec![("content-type", CONTENT_TYPE), ("host", host.as_str()), ("x-amz-date", at.as_str())];
        headers.extend(self.keys.session_token.as_ref().map(|token| ("x-amz-security-token", token.as_str())));
        headers.push(("x-amz-target", TARGET));
        let (path, query) = (self.endpoint.path(), self.endpoint.query().unwrap_or_default());
        let signed =
            Signed { method: "POST", path, query, headers: &headers, body: &body, region: &self.region, service: SERVICE, at: &at };
        let authorization = Zeroizing::new(signed.authorization(&self.keys));
        headers.retain(|(name, _)| *name != "host");
        headers.push(("authorization", &authorization));
        let answer = self.exchange.send(Method::POST, &self.endpoint, &headers, body).await?;
        if !answer.status.is_success() {
            return Err(refusal(answer.status.as_u16(), &answer.body));
        }
        let got: Got = serde_json::from_slice(&answer.body).map_err(|_| SourceError::Answer)?;
        let text = got.secret_string.map(Zeroizing::new).ok_or_else(|| SourceError::Field("SecretString".to_owned()))?;
        let value = match (serde_json::from_str::<Value>(&text), field) {
            (Ok(Value::Object(object)), field) => pick(&object, field)?,
            (_, Some(field)) => return Err(SourceError::Field(field.to_owned())),
            (_, None) => Zeroizing::new(text.trim().to_owned()),
        };
        Ok(SourceSecret { value, version: got.version_id })
    }
}

/// What a refusal means. Its text may repeat what was sent, its type does not.
fn refusal(status: u16, body: &[u8]) -> SourceError {
    let kind = serde_json::from_slice::<Refused>(body).ok().and_then(|refused| refused.kind);
    // The type may be spelled with its namespace in front.
    let code = kind.map(|kind| kind.rsplit('#').next().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(64).collect());
    let code: Option<String> = code;
    match code.as_deref() {
        Some("ResourceNotFoundException") => SourceError::Missing,
        Some(
            kind @ ("AccessDeniedException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"),
        ) => SourceError::Denied(kind.to_owned()),
        _ => SourceError::Status { status, code },
    }
}
