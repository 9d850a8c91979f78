//! A client of etcd's v3 API: gRPC over `tonic`, messages declared by hand ([`message`]). Nothing
//! here knows what the keys mean.
//!
//! A [`Client`] has a lazily opened connection for each endpoint. It uses one of them until a call
//! there fails for want of a connection, a leader or an answer; then it uses the next one. Reads
//! are tried on each endpoint in turn. Writes are tried once: only the caller knows whether a
//! second time does harm.

mod error;
pub mod message;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

pub use error::EtcdError;
use message::{
    AuthenticateRequest, AuthenticateResponse, Compare, CompareResult, CompareTarget,
    DeleteRangeRequest, DeleteRangeResponse, Event, Expected, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    StatusRequest, StatusResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchKind,
    WatchRequest, WatchResponse,
};

/// How to reach the members of an etcd cluster.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// Certificates to believe, in PEM; the client offers no TLS without them.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key of this client, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// User and password.
    pub login: Option<(String, String)>,
}

/// Time that a call may take, connecting included.
pub const CALL_TIME: Duration = Duration::from_secs(3);
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Interval of HTTP/2 pings, which find connections whose other end is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Unread bytes that a member may send; more than a piece of a large table.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const PING_TIME: Duration = Duration::from_secs(5);
/// Answers larger than this are refused; callers ask for less.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A client of one cluster; clones share its connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    members: Vec<(String, Channel)>,
    /// The member that calls go to, an index.
    current: AtomicUsize,
    login: Option<(String, String)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

impl Client {
    /// Makes a client, and opens no connection yet. Must be called within a tokio runtime.
    pub fn new(access: &Access) -> Result<Client, String> {
        let members = access.endpoints.iter().map(|url| {
            let channel = channel(url, access).map_err(|error| format!("{url}: {error}"))?;
            Ok((url.clone(), channel))
        });
        let members: Vec<_> = members.collect::<Result<_, String>>()?;
        if members.is_empty() {
            return Err("no endpoint of etcd is given".to_owned());
        }
        Ok(Client(Arc::new(Shared {
            members,
            current: AtomicUsize::new(0),
            login: access.login.clone(),
            token: Mutex::default(),
        })))
    }

    /// Count of endpoints.
    pub fn members(&self) -> usize {
        self.0.members.len()
    }

    /// Reads keys, linearizable unless a revision is named.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, EtcdError> {
        self.read("/etcdserverpb.KV/Range", request).await
    }

    /// The value of one key, and the revision at which it was read.
    pub async fn get(&self, key: &str) -> Result<RangeResponse, EtcdError> {
        self.range(RangeRequest { key: key.into(), ..RangeRequest::default() }).await
    }

    /// Makes one of two lists of steps as a whole, depending on comparisons.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, EtcdError> {
        self.unary("/etcdserverpb.KV/Txn", request).await
    }

    /// Makes steps that only read, as one read.
    pub async fn read_txn(&self, request: TxnRequest) -> Result<TxnResponse, EtcdError> {
        self.read("/etcdserverpb.KV/Txn", request).await
    }

    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, EtcdError> {
        self.unary("/etcdserverpb.KV/Put", request).await
    }

    /// Puts a value, and puts it once more if no response came. Only for a key that nothing but
    /// this call writes.
    pub async fn put_again(&self, request: PutRequest) -> Result<(), EtcdError> {
        match self.put(request.clone()).await {
            Err(EtcdError::Unreachable(_)) => self.put(request).await.map(drop),
            written => written.map(drop),
        }
    }

    pub async fn delete_range(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, EtcdError> {
        self.unary("/etcdserverpb.KV/DeleteRange", request).await
    }

    /// Asks for a new lease; returns its number.
    pub async fn grant(&self, seconds: i64) -> Result<i64, EtcdError> {
        let request = LeaseGrantRequest { ttl: seconds, id: 0 };
        let answer: LeaseGrantResponse =
            self.unary("/etcdserverpb.Lease/LeaseGrant", request).await?;
        if answer.error.is_empty() { Ok(answer.id) } else { Err(EtcdError::Other(answer.error)) }
    }

    pub async fn revoke(&self, id: i64) -> Result<(), EtcdError> {
        let _: LeaseRevokeResponse =
            self.unary("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id }).await?;
        Ok(())
    }

    /// Renews a lease; returns whether it was still there.
    pub async fn keep_alive(&self, id: i64) -> Result<bool, EtcdError> {
        let call = async {
            let path = "/etcdserverpb.Lease/LeaseKeepAlive";
            let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
            let (at, mut grpc) = self.ready().await?;
            let request = self.dressed(requests.into_streaming_request()).await?;
            let codec = ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
            let answers = grpc.streaming(request, PathAndQuery::from_static(path), codec).await;
            let mut answers = answers.map_err(|status| self.failed(at, &status))?.into_inner();
            let answer = answers.message().await.map_err(|status| self.failed(at, &status))?;
            Ok(answer.is_some_and(|answer| answer.ttl > 0))
        };
        self.in_time(call).await
    }

    /// State of the member that is asked, by its place among the endpoints.
    pub async fn status(&self, member: usize) -> Result<StatusResponse, EtcdError> {
        let (_, channel) = &self.0.members[member % self.0.members.len()];
        let call = async {
            let path = "/etcdserverpb.Maintenance/Status";
            self.ask(member, channel.clone(), path, StatusRequest {}).await
        };
        self.in_time(call).await
    }

    /// URL of a member, by its place among the endpoints.
    pub fn url(&self, member: usize) -> &str {
        &self.0.members[member % self.0.members.len()].0
    }

    /// Watches the keys with a prefix, from a revision on.
    pub async fn watch(&self, prefix: &str, start_revision: i64) -> Result<Watch, EtcdError> {
        let create = WatchCreateRequest {
            key: prefix.into(),
            range_end: end_of_prefix(prefix),
            start_revision,
            fragment: true,
        };
        let call = async {
            let (requests, body) = mpsc::channel(4);
            // The channel has room: nothing was sent yet.
            let _ = requests.send(WatchRequest { kind: Some(WatchKind::Create(create)) }).await;
            let body = ReceiverStream::new(body);
            let (at, mut grpc) = self.ready().await?;
            let request = self.dressed(body.into_streaming_request()).await?;
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let answers = grpc.streaming(request, path, codec).await;
            let mut answers = answers.map_err(|status| self.failed(at, &status))?.into_inner();
            let first = answers.message().await.map_err(|status| self.failed(at, &status))?;
            let first =
                first.ok_or_else(|| EtcdError::Unreachable("the watch ended".to_owned()))?;
            refused(&first).map_err(|error| self.noted(at, error))?;
            Ok(Watch { answers, client: self.clone(), at, _requests: requests })
        };
        self.in_time(call).await
    }

    /// Has the next call go to another member.
    pub fn turn_away(&self) {
        self.advance(self.0.current.load(Ordering::Relaxed));
    }

    /// A call without effect: tried on each member in turn.
    async fn read<Q, R>(&self, path: &'static str, request: Q) -> Result<R, EtcdError>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut answer = self.unary(path, request.clone()).await;
        for _ in 1..self.members() {
            match answer {
                Err(EtcdError::Unreachable(_)) => {
                    answer = self.unary(path, request.clone()).await;
                }
                answer => return answer,
            }
        }
        answer
    }

    /// Makes one call at the current member, and a second one if the token had expired.
    async fn unary<Q, R>(&self, path: &'static str, request: Q) -> Result<R, EtcdError>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let call = async || {
            let (at, channel) = self.member();
            self.ask(at, channel, path, request.clone()).await
        };
        match self.in_time(call()).await {
            Err(EtcdError::Token(_)) if self.0.login.is_some() => self.in_time(call()).await,
            answer => answer,
        }
    }

    async fn ask<Q, R>(
        &self,
        at: usize,
        channel: Channel,
        path: &'static str,
        request: Q,
    ) -> Result<R, EtcdError>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = grpc(channel);
        ready(&mut grpc).await.map_err(|status| self.failed(at, &status))?;
        let request = self.dressed(Request::new(request)).await?;
        let codec = ProstCodec::<Q, R>::default();
        let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
        Ok(answer.map_err(|status| self.failed(at, &status))?.into_inner())
    }

    /// The current member with its place.
    fn member(&self) -> (usize, Channel) {
        let at = self.0.current.load(Ordering::Relaxed) % self.members();
        (at, self.0.members[at].1.clone())
    }

    async fn ready(&self) -> Result<(usize, Grpc<Channel>), EtcdError> {
        let (at, channel) = self.member();
        let mut grpc = grpc(channel);
        ready(&mut grpc).await.map_err(|status| self.failed(at, &status))?;
        Ok((at, grpc))
    }

    /// Adds the token, and the demand that the member has a leader: a member that is cut off must
    /// say so.
    async fn dressed<T>(&self, mut request: Request<T>) -> Result<Request<T>, EtcdError> {
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = self.token().await? {
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    /// Returns the token of the login, if there is a login. Asks etcd for a token if there is none
    /// yet.
    async fn token(&self) -> Result<Option<MetadataValue<Ascii>>, EtcdError> {
        let Some((name, password)) = &self.0.login else { return Ok(None) };
        if let Some(token) = self.lock_token().clone() {
            return Ok(Some(token));
        }
        let (at, channel) = self.member();
        let mut grpc = grpc(channel);
        ready(&mut grpc).await.map_err(|status| self.failed(at, &status))?;
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let codec = ProstCodec::<AuthenticateRequest, AuthenticateResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Auth/Authenticate");
        let answer = grpc.unary(Request::new(request), path, codec).await;
        let answer = answer.map_err(|status| {
            // A member that can't be reached is left, as after any call.
            match self.failed(at, &status) {
                error @ EtcdError::Unreachable(_) => error,
                _ => EtcdError::of_login(&status),
            }
        })?;
        let answer = answer.into_inner();
        let token = MetadataValue::try_from(answer.token)
            .map_err(|_| EtcdError::Other("the token is no text".to_owned()))?;
        *self.lock_token() = Some(token.clone());
        Ok(Some(token))
    }

    fn lock_token(&self) -> std::sync::MutexGuard<'_, Option<MetadataValue<Ascii>>> {
        self.0.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a failed call at a member: drops a token that was refused, and leaves a member
    /// that is out of reach.
    fn failed(&self, at: usize, status: &Status) -> EtcdError {
        self.noted(at, EtcdError::from(status))
    }

    fn noted(&self, at: usize, error: EtcdError) -> EtcdError {
        match &error {
            EtcdError::Token(_) => *self.lock_token() = None,
            EtcdError::Unreachable(_) => self.advance(at),
            _ => {}
        }
        error
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, EtcdError>>,
    ) -> Result<T, EtcdError> {
        let at = self.0.current.load(Ordering::Relaxed);
        match tokio::time::timeout(CALL_TIME, call).await {
            Ok(answer) => answer,
            Err(_) => {
                self.advance(at);
                let url = self.url(at);
                Err(EtcdError::Unreachable(format!("{url}: no answer in {CALL_TIME:?}")))
            }
        }
    }

    /// Uses the next member, unless another call has moved on already.
    fn advance(&self, at: usize) {
        let current = &self.0.current;
        let next = (at + 1) % self.members();
        let _ = current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A stream of events.
pub struct Watch {
    answers: Streaming<WatchResponse>,
    client: Client,
    at: usize,
    /// The stream ends when its other half does.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Watch {
    /// Waits for events; those of one revision may come in parts. After an error the watch is over.
    pub async fn next(&mut self) -> Result<Vec<Event>, EtcdError> {
        let answer = self.answers.next().await;
        let answer = answer
            .ok_or_else(|| EtcdError::Unreachable("the watch ended".to_owned()))?
            .map_err(|status| self.client.failed(self.at, &status))?;
        refused(&answer).map_err(|error| self.client.noted(self.at, error))?;
        Ok(answer.events)
    }
}

/// Whether the answer says that the watch was canceled.
fn refused(answer: &WatchResponse) -> Result<(), EtcdError> {
    match answer {
        WatchResponse { compact_revision, .. } if *compact_revision != 0 => {
            Err(EtcdError::Compacted)
        }
        WatchResponse { canceled: true, cancel_reason, .. } => {
            Err(EtcdError::of_reason(cancel_reason))
        }
        _ => Ok(()),
    }
}

fn channel(url: &str, access: &Access) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())?;
    let mut endpoint = endpoint
        .connect_timeout(CONNECT_TIME)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME)
        .keep_alive_while_idle(true);
    if url.starts_with("https:") {
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &access.ca {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &access.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(tls).map_err(|error| text_of(&error))?;
    }
    Ok(endpoint.connect_lazy())
}

fn grpc(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unavailable(text_of(&error)))
}

/// An error with its causes in one line.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl RangeRequest {
    /// Every key that begins with `prefix`.
    pub fn of_prefix(prefix: &str) -> RangeRequest {
        let range_end = end_of_prefix(prefix);
        RangeRequest { key: prefix.into(), range_end, ..RangeRequest::default() }
    }
}

impl DeleteRangeRequest {
    /// Every key that begins with `prefix`.
    pub fn of_prefix(prefix: &str) -> DeleteRangeRequest {
        DeleteRangeRequest { key: prefix.into(), range_end: end_of_prefix(prefix) }
    }

    /// One key.
    pub fn of_key(key: &str) -> DeleteRangeRequest {
        DeleteRangeRequest { key: key.into(), range_end: Vec::new() }
    }
}

/// The first key behind all that begin with `prefix`.
fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Zero stands for the end of all keys.
    vec![0]
}

pub fn put(key: &str, value: impl Into<Vec<u8>>) -> RequestOp {
    put_leased(key, value, 0)
}

pub fn put_leased(key: &str, value: impl Into<Vec<u8>>, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), lease };
    RequestOp { request: Some(message::Request::Put(put)) }
}

pub fn get(key: &str) -> RequestOp {
    let range = RangeRequest { key: key.into(), ..RangeRequest::default() };
    RequestOp { request: Some(message::Request::Range(range)) }
}

pub fn delete_prefix(prefix: &str) -> RequestOp {
    let delete = DeleteRangeRequest::of_prefix(prefix);
    RequestOp { request: Some(message::Request::DeleteRange(delete)) }
}

/// Comparison: the key was last changed at this revision; 0: the key is not there.
pub fn is_at(key: &str, mod_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.into(),
        expected: Some(Expected::ModRevision(mod_revision)),
    }
}

/// Comparison: the key is there.
pub fn exists(key: &str) -> Compare {
    Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Create.into(),
        key: key.into(),
        expected: Some(Expected::CreateRevision(0)),
    }
}

impl TxnResponse {
    /// Keys that the step with this number has read.
    pub fn read(&self, step: usize) -> &[message::KeyValue] {
        match self.responses.get(step).and_then(|op| op.response.as_ref()) {
            Some(message::Response::Range(range)) => &range.kvs,
            _ => &[],
        }
    }

    pub fn revision(&self) -> i64 {
        self.header.as_ref().map_or(0, |header| header.revision)
    }
}
