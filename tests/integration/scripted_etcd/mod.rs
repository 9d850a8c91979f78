//! A stand-in of etcd for what the real one can't be made to do: one member, in memory, that loses
//! events, cuts its streams anywhere, makes a change and does not say so, or refuses by a code.

// Messages as data: tags of etcd's rpc.proto, which the tests with the real etcd check.
#[path = "../../../src/control/fleet/etcd/message.rs"]
#[allow(dead_code, reason = "the client knows more of them than the stand-in")]
mod message;
mod store;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use message::{
    AuthenticateRequest, AuthenticateResponse, DeleteRangeRequest, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, PutRequest, RangeRequest, StatusRequest, StatusResponse, TxnRequest,
    TxnResponse, WatchKind, WatchRequest, WatchResponse,
};
use store::Store;

/// Fate of a call that changes something.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Refused with this code and message; nothing is done.
    Refused(Code, &'static str),
    /// Done; the response is this error.
    DoneWith(Code, &'static str),
    /// Done; no response ever comes.
    DoneInSilence,
    /// Neither.
    Silence,
}

/// Fate of the messages of a watch that bring entries of the log, one by one; after these it
/// behaves.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum WatchFate {
    Passes,
    /// Left out without a word.
    Lost,
    /// Sent twice.
    Doubled,
    /// Each event in a message of its own, as fragments.
    Split,
    /// The stream ends with an error in its place.
    Cut,
    /// The stream is canceled by the server, in its place.
    Canceled(&'static str),
    /// Nothing comes any more, the stream stays open.
    Silent,
}

#[derive(Default)]
struct Script {
    /// Of the next transactions that change something.
    changes: VecDeque<Fate>,
    watch: VecDeque<WatchFate>,
    /// Calls without this token are refused.
    token: Option<String>,
    logins: usize,
    watches: usize,
}

struct Shared {
    store: Mutex<Store>,
    script: Mutex<Script>,
    /// The newest revision.
    revision: watch::Sender<i64>,
}

/// The stand-in; it ends with its handle.
pub struct ScriptedEtcd {
    pub url: String,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<Infallible>,
}

impl ScriptedEtcd {
    pub fn start() -> ScriptedEtcd {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            script: Mutex::default(),
            revision: watch::Sender::new(0),
        });
        let serving = shared.clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let service = service_fn(move |request| answer(serving.clone(), request));
            let server = tonic::transport::Server::builder();
            let serve = server.serve_with_incoming(service, TcpIncoming::from(listener));
            runtime.block_on(async move {
                tokio::select! {
                    ended = serve => ended.expect("it serves"),
                    _ = stopped => {}
                }
            });
        });
        ScriptedEtcd { url, shared, _stop: stop }
    }

    pub fn urls(&self) -> Vec<String> {
        vec![self.url.clone()]
    }

    /// Has the next transactions that change something meet these fates.
    pub fn next_changes(&self, fates: &[Fate]) {
        self.shared.script().changes.extend(fates);
    }

    /// Has the next messages of watches with entries meet these fates.
    pub fn next_events(&self, fates: &[WatchFate]) {
        self.shared.script().watch.extend(fates);
    }

    /// Whether every fate has been met.
    pub fn is_played(&self) -> bool {
        let script = self.shared.script();
        script.changes.is_empty() && script.watch.is_empty()
    }

    /// How many watches were begun.
    pub fn watches(&self) -> usize {
        self.shared.script().watches
    }

    /// From now on calls need this token, which a login gets.
    pub fn set_token(&self, token: &str) {
        self.shared.script().token = Some(token.to_owned());
    }

    pub fn logins(&self) -> usize {
        self.shared.script().logins
    }

    pub fn compact(&self) {
        self.shared.store().compact();
    }

    /// Writes some values in one transaction.
    pub fn write(&self, values: &[(&str, &str)]) {
        let put = |(key, value): &(&str, &str)| {
            let put = PutRequest { key: (*key).into(), value: (*value).into(), lease: 0 };
            message::RequestOp { request: Some(message::Request::Put(put)) }
        };
        let success = values.iter().map(put).collect();
        self.shared.store().txn(TxnRequest { success, ..TxnRequest::default() });
        self.shared.tell();
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no panic")
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no panic")
    }

    fn tell(&self) {
        let revision = self.store().revision;
        self.revision.send_replace(revision);
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(wanted) = self.script().token.clone() else { return Ok(()) };
        let token = request.metadata().get("token").and_then(|token| token.to_str().ok());
        match token == Some(&wanted) {
            true => Ok(()),
            false => Err(Status::unauthenticated("etcdserver: invalid auth token")),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let steps = request.success.iter().filter_map(|step| step.request.as_ref());
        let changes = { steps }.any(|step| !matches!(step, message::Request::Range(_)));
        let fate = if changes { self.script().changes.pop_front() } else { None };
        match fate {
            Some(Fate::Refused(code, message)) => return Err(Status::new(code, message)),
            Some(Fate::Silence) => return pending().await,
            _ => {}
        }
        let done = self.store().txn(request);
        self.tell();
        match fate {
            Some(Fate::DoneWith(code, message)) => Err(Status::new(code, message)),
            Some(Fate::DoneInSilence) => pending().await,
            _ => done.map(Response::new).ok_or_else(compacted),
        }
    }

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<message::RangeResponse>, Status> {
        self.admit(&request)?;
        let found = self.store().range(request.get_ref());
        found.map(Response::new).ok_or_else(compacted)
    }

    async fn put(
        &self,
        request: Request<PutRequest>,
    ) -> Result<Response<message::PutResponse>, Status> {
        self.admit(&request)?;
        let done = self.store().put(request.into_inner());
        self.tell();
        Ok(Response::new(done))
    }

    async fn delete(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<message::DeleteRangeResponse>, Status> {
        self.admit(&request)?;
        let done = self.store().delete(request.get_ref());
        self.tell();
        Ok(Response::new(done))
    }

    async fn authenticate(
        &self,
        _: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let mut script = self.script();
        script.logins += 1;
        let token = script.token.clone();
        let token = token.ok_or_else(|| Status::failed_precondition("no authentication"))?;
        Ok(Response::new(AuthenticateResponse { token }))
    }
}

fn compacted() -> Status {
    Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

async fn keep_alive(
    request: Request<Streaming<LeaseKeepAliveRequest>>,
) -> Result<Response<Answers<LeaseKeepAliveResponse>>, Status> {
    let requests = request.into_inner();
    let answers = requests
        .map(|request| request.map(|request| LeaseKeepAliveResponse { id: request.id, ttl: 30 }));
    Ok(Response::new(Box::pin(answers)))
}

async fn watch(
    shared: Arc<Shared>,
    request: Request<Streaming<WatchRequest>>,
) -> Result<Response<Answers<WatchResponse>>, Status> {
    shared.admit(&request)?;
    shared.script().watches += 1;
    let mut requests = request.into_inner();
    let first = requests.message().await?;
    let Some(WatchKind::Create(create)) = first.and_then(|first| first.kind) else {
        return Err(Status::invalid_argument("a watch is to be created"));
    };
    let (sender, answers) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let _open = requests;
        let created = WatchResponse {
            header: shared.store().header(),
            created: true,
            ..WatchResponse::default()
        };
        let _ = sender.send(Ok(created)).await;
        let mut revision = shared.revision.subscribe();
        let mut next = match create.start_revision {
            0 => shared.store().revision + 1,
            from => from,
        };
        loop {
            if next < shared.store().compacted {
                let compact_revision = shared.store().compacted;
                let end =
                    WatchResponse { canceled: true, compact_revision, ..WatchResponse::default() };
                let _ = sender.send(Ok(end)).await;
                return;
            }
            let batches = shared.store().since(next, &create.key, &create.range_end);
            for (at, events) in batches {
                next = at + 1;
                let header = shared.store().header();
                // What nodes say of themselves comes at any time.
                let is_entry = |event: &message::Event| {
                    let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
                    key.windows(9).any(|part| part == b"live/log/")
                };
                let fate = match events.iter().any(is_entry) {
                    true => shared.script().watch.pop_front(),
                    false => None,
                };
                let fate = fate.unwrap_or(WatchFate::Passes);
                let whole = WatchResponse { header, events, ..WatchResponse::default() };
                if !pass(&sender, whole, fate).await {
                    return;
                }
            }
            if revision.changed().await.is_err() || sender.is_closed() {
                return;
            }
        }
    });
    Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(answers))))
}

/// Sends a message as its fate says; whether the stream goes on.
async fn pass(
    sender: &tokio::sync::mpsc::Sender<Result<WatchResponse, Status>>,
    whole: WatchResponse,
    fate: WatchFate,
) -> bool {
    match fate {
        WatchFate::Passes => sender.send(Ok(whole)).await.is_ok(),
        WatchFate::Lost => true,
        WatchFate::Doubled => {
            sender.send(Ok(whole.clone())).await.is_ok() && sender.send(Ok(whole)).await.is_ok()
        }
        WatchFate::Split => {
            let count = whole.events.len();
            for (at, event) in whole.events.into_iter().enumerate() {
                let header = whole.header.clone();
                let fragment = at + 1 < count;
                let part =
                    WatchResponse { header, events: vec![event], fragment, ..Default::default() };
                if sender.send(Ok(part)).await.is_err() {
                    return false;
                }
            }
            true
        }
        WatchFate::Cut => {
            let _ = sender.send(Err(Status::unavailable("the transport is closing"))).await;
            false
        }
        WatchFate::Canceled(reason) => {
            let end = WatchResponse {
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..WatchResponse::default()
            };
            let _ = sender.send(Ok(end)).await;
            false
        }
        WatchFate::Silent => {
            sender.closed().await;
            false
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    macro_rules! unary {
        ($call:ident) => {{
            let call = service_fn(move |request| {
                let shared = shared.clone();
                async move { shared.$call(request).await }
            });
            Grpc::new(ProstCodec::default()).unary(call, request).await
        }};
        ($answer:expr) => {{
            let call = service_fn(move |request| {
                let answer = $answer(&shared, request);
                async move { answer }
            });
            Grpc::new(ProstCodec::default()).unary(call, request).await
        }};
    }
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/etcdserverpb.KV/Range" => unary!(range),
        "/etcdserverpb.KV/Txn" => unary!(txn),
        "/etcdserverpb.KV/Put" => unary!(put),
        "/etcdserverpb.KV/DeleteRange" => unary!(delete),
        "/etcdserverpb.Auth/Authenticate" => unary!(authenticate),
        "/etcdserverpb.Lease/LeaseGrant" => {
            unary!(|shared: &Arc<Shared>, _: Request<LeaseGrantRequest>| {
                let (id, error) = (shared.store().grant(), String::new());
                Ok::<_, Status>(Response::new(LeaseGrantResponse { id, ttl: 30, error }))
            })
        }
        "/etcdserverpb.Lease/LeaseRevoke" => {
            unary!(|shared: &Arc<Shared>, request: Request<LeaseRevokeRequest>| {
                shared.store().revoke(request.get_ref().id);
                shared.tell();
                Ok::<_, Status>(Response::new(LeaseRevokeResponse {}))
            })
        }
        "/etcdserverpb.Maintenance/Status" => {
            unary!(|shared: &Arc<Shared>, _: Request<StatusRequest>| {
                let header = shared.store().header();
                let version = "3.4.0".to_owned();
                Ok::<_, Status>(Response::new(StatusResponse {
                    header,
                    version,
                    leader: 1,
                    ..StatusResponse::default()
                }))
            })
        }
        "/etcdserverpb.Lease/LeaseKeepAlive" => {
            let call = service_fn(keep_alive);
            Grpc::new(ProstCodec::default()).streaming(call, request).await
        }
        "/etcdserverpb.Watch/Watch" => {
            let call = service_fn(move |request| watch(shared.clone(), request));
            Grpc::new(ProstCodec::default()).streaming(call, request).await
        }
        other => panic!("nobody calls {other}"),
    })
}
