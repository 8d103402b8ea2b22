//! An upstream with a grant, as a test sees it.

use std::time::{Duration, Instant};

use control::{Commands, Request};
use schemas::credential::grant::{CredentialAuthorized, Grant, GrantCommand};
use schemas::credential::{Credential, CredentialAdded, CredentialCommand};
use schemas::upstream::{Dialect, UpstreamCommand, UpstreamDetails, UpstreamLabels};
use schemas::{Actor, Aggregate, Command, CommandId, CredentialId, Digest, Stream, TenantId, Timestamp, UpstreamId};
use serde_json::Value;
use vault::{GrantSecret, Lifetime, SecretAddress};

use super::fake_provider::FakeProvider;
use crate::world::Node;

const ORIGIN: &str = "https://api.example.com";

pub(super) struct Account {
    pub(super) id: CredentialId,
    pub(super) name: String,
}

async fn execute(node: &Node, stream: Stream, command: Command) {
    let command_id = CommandId::from_bytes(
        *blake3::hash(format!("{stream} {command:?} {:?}", Instant::now()).as_bytes()).as_bytes().first_chunk().unwrap(),
    );
    let request = Request {
        stream,
        command,
        actor: Actor::Owner,
        command_id,
        request_digest: Digest::blake3(b"test"),
        if_version: None,
        deadline: Commands::deadline(),
    };
    node.commands.execute(request).await.unwrap();
}

impl Account {
    /// Logs in at the provider and adds an upstream of this name with the grant.
    pub(super) async fn add(node: &Node, provider: &FakeProvider, name: &str, expires_at: Timestamp) -> Self {
        let seed = *blake3::hash(name.as_bytes()).as_bytes().first_chunk::<16>().unwrap();
        let (id, upstream, tenant) = (CredentialId::from_bytes(seed), UpstreamId::from_bytes(seed), TenantId::default_tenant());
        let mut secret = GrantSecret::default();
        secret.access_token = format!("at-{name}-0");
        secret.refresh_token = Some(provider.log_in(name));
        let address = SecretAddress {
            tenant: tenant.clone(),
            owner_kind: "credential",
            owner_id: seed,
            field: "secret",
            version: 1,
            origin: ORIGIN.to_owned(),
        };
        let sealed = node.vault.seal(&address, &secret.to_bytes(), Lifetime::lasting(expires_at)).unwrap();
        assert_eq!(sealed, vault::Sealing::Sealed);
        let added = CredentialAdded { upstream, origin: ORIGIN.to_owned(), fingerprint: "1:00".to_owned() };
        let authorized = CredentialAuthorized {
            provider: "acme".to_owned(),
            account: name.to_owned(),
            scopes: vec![],
            expires_at: Some(expires_at),
            is_refreshable: true,
        };
        let command = Command::Credential(CredentialCommand::AddGrant(added, authorized));
        execute(node, Stream::credential(tenant.clone(), id), command).await;
        let details = UpstreamDetails {
            name: name.to_owned(),
            dialect: Dialect::Openai,
            base_url: format!("{ORIGIN}/v1"),
            pool: node.models.routes().pools[0].value.id,
            priority: 50,
            weight: 1,
            models: vec![],
        };
        let labels = UpstreamLabels { region: None, tags: vec![] };
        let command = UpstreamCommand::Add { details: Box::new(details), labels, credential: Some(id) };
        execute(node, Stream::upstream(tenant, upstream), Command::Upstream(command)).await;
        Self { id, name: name.to_owned() }
    }

    fn stream(&self) -> Stream {
        Stream::credential(TenantId::default_tenant(), self.id)
    }

    pub(super) async fn execute(&self, node: &Node, command: GrantCommand) {
        execute(node, self.stream(), Command::Credential(CredentialCommand::Grant(command))).await;
    }

    pub(super) fn credential(&self, node: &Node) -> Credential {
        let (Some(Aggregate::Credential(credential)), _) = node.models.load(&self.stream()).unwrap() else { panic!("no credential") };
        credential
    }

    pub(super) fn grant(&self, node: &Node) -> Grant {
        *self.credential(node).grant.unwrap()
    }

    /// The grant, once this holds of it.
    pub(super) async fn grant_with(&self, node: &Node, holds: impl Fn(&Grant) -> bool) -> Grant {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let grant = self.grant(node);
            if holds(&grant) {
                return grant;
            }
            assert!(Instant::now() < deadline, "{grant:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn address(credential: &Credential, version: u32) -> SecretAddress {
        SecretAddress {
            tenant: credential.tenant.clone(),
            owner_kind: "credential",
            owner_id: *credential.id.as_bytes(),
            field: "secret",
            version,
            origin: credential.origin.clone(),
        }
    }

    /// The sealed secret in use.
    pub(super) fn secret(&self, node: &Node) -> GrantSecret {
        let credential = self.credential(node);
        GrantSecret::from_bytes(&node.vault.unseal(&Self::address(&credential, credential.secret_version)).unwrap()).unwrap()
    }

    /// What a node that redeems the present token as this claim would seal.
    pub(super) fn answer(&self, provider: &FakeProvider, generation: u32) -> GrantSecret {
        let renewal = provider.redeem_now(&provider.current(&self.name)).unwrap();
        let mut answer = GrantSecret::default();
        answer.access_token = renewal.access_token.to_string();
        answer.refresh_token = renewal.refresh_token.map(|token| token.to_string());
        answer.generation = generation;
        answer.is_rotated = true;
        answer
    }

    /// The records' times of the first token's beginning and end.
    pub(super) async fn first_life(&self, node: &Node) -> (Timestamp, Timestamp) {
        let events = self.events(node).await;
        let at = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        (at(&events[1]["time"]), at(&events[1]["data"]["expires_at"]))
    }

    /// The names of its events.
    pub(super) async fn names(&self, node: &Node) -> Vec<String> {
        self.events(node).await.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    async fn events(&self, node: &Node) -> Vec<Value> {
        let answer = node.get(&format!("/api/v1/events?stream={}&limit=1000", self.id)).await.body;
        answer["events"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    }
}
