//! Reading a credential where the operator keeps it, with what the tools of that place find in the environment too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use control::secret_sources::{AwsKeys, Exchange, KvLogin, KvStore, Reference, SecretSource, SecretsManager, SourceSecret};
use schemas::{Actor, CommandId, RotationId, TenantId, Timestamp};
use url::Url;
use zeroize::Zeroizing;

/// Where a pod finds the token of its service account.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A credential, and the rotation that takes it in.
pub(super) struct Found {
    pub(super) secret: SourceSecret,
    /// The same for the same version of the secret, so that a job which runs every minute begins one rotation only.
    pub(super) rotation: RotationId,
}

/// Reads what `reference` names.
pub(super) async fn read(reference: &str, environment: &BTreeMap<String, String>, now: Timestamp) -> Result<Found> {
    let parsed: Reference = reference.parse().with_context(|| format!("reading {reference:?}"))?;
    let environment = Environment(environment);
    let source = match &parsed {
        Reference::Kv { .. } => kv(environment)?,
        Reference::Aws { .. } => aws(environment)?,
    };
    let secret = source.read(&parsed, now).await.with_context(|| format!("reading {reference:?}"))?;
    let name = format!("secret source {reference} {}", secret.version);
    let rotation = CommandId::of(&TenantId::default_tenant(), &Actor::Scheduler, &name).new_rotation_id();
    Ok(Found { secret, rotation })
}

#[derive(Clone, Copy)]
struct Environment<'a>(&'a BTreeMap<String, String>);

impl<'a> Environment<'a> {
    fn get(self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn secret(self, name: &str) -> Option<Zeroizing<String>> {
        self.get(name).map(|value| Zeroizing::new(value.to_owned()))
    }

    fn url(self, name: &str) -> Result<Option<Url>> {
        self.get(name).map(|value| value.parse().with_context(|| format!("{name} is not a URL"))).transpose()
    }
}

fn kv(environment: Environment<'_>) -> Result<SecretSource> {
    let address = environment.url("VAULT_ADDR")?.ok_or_else(|| anyhow!("VAULT_ADDR is not set"))?;
    let mount = |default: &str| environment.get("VAULT_AUTH_MOUNT").unwrap_or(default).to_owned();
    let login = if let Some(token) = environment.secret("VAULT_TOKEN") {
        KvLogin::Token(token)
    } else if let Some(role_id) = environment.get("VAULT_ROLE_ID") {
        let secret_id = environment.secret("VAULT_SECRET_ID").ok_or_else(|| anyhow!("VAULT_ROLE_ID is set, but not VAULT_SECRET_ID"))?;
        KvLogin::AppRole { mount: mount("approle"), role_id: role_id.to_owned(), secret_id }
    } else if let Some(role) = environment.get("VAULT_KUBERNETES_ROLE") {
        let token_file = PathBuf::from(environment.get("VAULT_KUBERNETES_TOKEN_FILE").unwrap_or(POD_TOKEN));
        KvLogin::Kubernetes { mount: mount("kubernetes"), role: role.to_owned(), token_file }
    } else {
        bail!("set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID, or VAULT_KUBERNETES_ROLE");
    };
    let exchange = exchange(environment.get("VAULT_CACERT"))?;
    Ok(SecretSource::Kv(KvStore::new(exchange, address, environment.get("VAULT_NAMESPACE").map(str::to_owned), login)))
}

fn aws(environment: Environment<'_>) -> Result<SecretSource> {
    let region = environment.get("AWS_REGION").or_else(|| environment.get("AWS_DEFAULT_REGION"));
    let region = region.ok_or_else(|| anyhow!("AWS_REGION is not set"))?.to_owned();
    let (Some(access_key_id), Some(secret_access_key)) =
        (environment.get("AWS_ACCESS_KEY_ID"), environment.secret("AWS_SECRET_ACCESS_KEY"))
    else {
        bail!("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    };
    let session_token = environment.secret("AWS_SESSION_TOKEN");
    let keys = AwsKeys { access_key_id: access_key_id.to_owned(), secret_access_key, session_token };
    let endpoint = match environment.url("AWS_ENDPOINT_URL_SECRETS_MANAGER")? {
        Some(endpoint) => Some(endpoint),
        None => environment.url("AWS_ENDPOINT_URL")?,
    };
    let store = SecretsManager::new(exchange(environment.get("AWS_CA_BUNDLE"))?, region, endpoint, keys);
    Ok(SecretSource::Aws(store.context("AWS_REGION is not a region")?))
}

fn exchange(ca: Option<&str>) -> Result<Exchange> {
    let ca = ca.map(Path::new);
    Exchange::new(ca).with_context(|| match ca {
        Some(path) => format!("reading the certificates in {}", path.display()),
        None => "reading the system's certificates".to_owned(),
    })
}
