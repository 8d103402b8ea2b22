//! An object store of the cluster, as this crate uses one: made where it is missing, never changed, and every wait bounded.
//!
//! What is asked about an object is asked of the stream's leader, so that what was put is found. The library would ask any replica.

use std::io;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::object_store::{GetErrorKind, InfoErrorKind, Object, ObjectInfo, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{Context, ContextBuilder, ErrorCode};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind, header};
use bytes::Bytes;
use futures_util::StreamExt as _;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::nats::replicas_of;

/// A server without a leader is silent for 4 to 8 seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the next piece of an object, or of a list, may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before it is asked again whether a server knows the store.
const KNOWN_PAUSE: Duration = Duration::from_millis(20);
/// Bytes that are read at once.
const PIECE_BYTES: usize = 128 * 1024;

/// A request that came to nothing, and why.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Away(pub(super) String);

/// Nothing of the cause is needed but its text.
fn away(error: impl std::fmt::Display) -> Away {
    Away(error.to_string())
}

pub(super) struct Bucket {
    client: Client,
    context: Context,
    name: &'static str,
    replicas: Option<usize>,
    /// How long objects are kept; zero is for ever.
    max_age: Duration,
}

/// An object that is being read.
pub(super) struct Reading {
    object: Object,
    /// Bytes that are still to come.
    left: usize,
    piece: Vec<u8>,
}

impl Reading {
    pub(super) fn info(&self) -> &ObjectInfo {
        &self.object.info
    }

    /// The next piece; none at the end. What was read is for the caller to check.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, Away> {
        if self.left == 0 {
            return Ok(None);
        }
        let read = timeout(PIECE_TIMEOUT, self.object.read(&mut self.piece)).await;
        let read = match read.map_err(|_| Away(format!("{} broke off", self.object.info.name)))? {
            // The library's own check, at the end; the caller's says so too, for want of what was not given out.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.left = 0;
                return Ok(None);
            }
            read => read.map_err(away)?,
        };
        if read == 0 {
            return Err(Away(format!("{} ended early", self.object.info.name)));
        }
        self.left = self.left.saturating_sub(read);
        Ok(Some(&self.piece[..read]))
    }
}

impl Bucket {
    pub(super) fn new(client: Client, name: &'static str, replicas: Option<usize>, max_age: Duration) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        Self { client, context, name, replicas, max_age }
    }

    pub(super) async fn put(&self, meta: ObjectMetadata, mut bytes: impl AsyncRead + Unpin) -> Result<ObjectInfo, Away> {
        let store = self.open().await?;
        self.wait_known().await?;
        store.put(meta, &mut bytes).await.map_err(away)
    }

    /// Waits until the server that this node is connected to knows who takes the store's messages: of a store that was just made not every server
    /// does at once, and while it has no leader none does. Asked with a message that expects another stream, so that it is never kept.
    async fn wait_known(&self) -> Result<(), Away> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_STREAM, "none");
        loop {
            let question = Request::new().headers(headers.clone()).payload(Bytes::new()).timeout(Some(REQUEST_TIMEOUT));
            match self.client.send_request(format!("$O.{}.M.none", self.name), question).await {
                Err(error) if error.kind() == RequestErrorKind::NoResponders && Instant::now() < deadline => sleep(KNOWN_PAUSE).await,
                answer => return answer.map(drop).map_err(away),
            }
        }
    }

    /// Begins to read an object; none if there is no such object.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Reading>, Away> {
        match self.open().await?.get(name).await {
            Ok(object) => Ok(Some(Reading { left: object.info.size, object, piece: vec![0; PIECE_BYTES] })),
            Err(error) if error.kind() == GetErrorKind::NotFound => Ok(None),
            Err(error) => Err(away(error)),
        }
    }

    pub(super) async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, Away> {
        match self.open().await?.info(name).await {
            Ok(info) => Ok(Some(info).filter(|info| !info.deleted)),
            Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(away(error)),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<ObjectInfo>, Away> {
        let store = self.open().await?;
        let mut objects = store.list().await.map_err(away)?;
        let mut infos = Vec::new();
        while let Some(info) = timeout(PIECE_TIMEOUT, objects.next()).await.map_err(|_| Away("the list broke off".to_owned()))? {
            infos.push(info.map_err(away)?);
        }
        Ok(infos)
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), Away> {
        if self.info(name).await?.is_none() {
            return Ok(());
        }
        self.open().await?.delete(name).await.map_err(away)
    }

    /// The store, which is made if it is not there.
    async fn open(&self) -> Result<ObjectStore, Away> {
        if self.client.connection_state() != State::Connected {
            return Err(Away("there is no connection to a server".to_owned()));
        }
        let wanted = self.definition();
        let found = match self.context.get_stream(&wanted.name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) if is_not_found(&error.kind()) => {
                self.context.create_stream(&wanted).await.map_err(away)?.cached_info().config.clone()
            }
            Err(error) => return Err(away(error)),
        };
        if (found.num_replicas, found.storage) != (wanted.num_replicas, wanted.storage) {
            let (replicas, storage) = (found.num_replicas, found.storage);
            return Err(Away(format!(
                "{} has {replicas} replicas in {storage:?} storage, not {} in file storage",
                self.name, wanted.num_replicas
            )));
        }
        self.context.get_object_store(self.name).await.map_err(away)
    }

    /// As the library makes one, but without reading from replicas.
    fn definition(&self) -> Config {
        Config {
            name: format!("OBJ_{}", self.name),
            subjects: vec![format!("$O.{}.C.>", self.name), format!("$O.{}.M.>", self.name)],
            max_age: self.max_age,
            storage: StorageType::File,
            num_replicas: replicas_of(&self.client, self.replicas),
            discard: DiscardPolicy::New,
            allow_rollup: true,
            allow_direct: false,
            ..Config::default()
        }
    }
}

fn is_not_found(error: &GetStreamErrorKind) -> bool {
    matches!(error, GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
