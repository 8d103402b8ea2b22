//! The node's signing identity.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use schemas::record::{EncodeError, Header, encode};
use schemas::{ClusterId, Event, PublicKey, WriterId};

/// The key with which this node signs records. Its id is the node's id.
pub struct Writer {
    id: WriterId,
    key: SigningKey,
}

impl Writer {
    /// From the 32 bytes of `DATA/writer.key`.
    pub fn new(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        Self { id: WriterId::of(&PublicKey::from_bytes(key.verifying_key().to_bytes())), key }
    }

    pub const fn id(&self) -> WriterId {
        self.id
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// Signs bytes that are no record: an export's manifest. They begin with a text, so that no record's header can be taken for them.
    pub fn sign_statement(&self, statement: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        self.key.sign(statement).to_bytes()
    }

    pub(crate) fn encode(&self, cluster: ClusterId, header: &Header, events: &[Event]) -> Result<Bytes, EncodeError> {
        encode(cluster, header, events, &self.key).map(Bytes::from)
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({})", self.id)
    }
}
