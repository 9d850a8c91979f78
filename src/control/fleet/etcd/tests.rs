//! The client against etcd itself, where it is installed, and against peers that say nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

/// One member in a folder of its own.
struct Etcd {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

/// Starts etcd; `None`: it is not installed.
async fn etcd(arguments: &[&str]) -> Option<Etcd> {
    if !Path::new("/usr/bin/etcd").exists() {
        println!("skipped: etcd is not installed");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (url, peer) = (free_port(), free_port());
    let (url, peer) = (format!("http://127.0.0.1:{url}"), format!("http://127.0.0.1:{peer}"));
    let child = Command::new("/usr/bin/etcd")
        .args(["--name=one", "--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .arg(format!("--initial-cluster=one={peer}"))
        .arg("--data-dir")
        .arg(folder.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts");
    let etcd = Etcd { child, url, _folder: folder };
    let client = client(&[&etcd.url]);
    for _ in 0..200 {
        match client.get("none").await {
            Ok(_) => return Some(etcd),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("etcd does not answer");
}

fn client(urls: &[&str]) -> Client {
    let endpoints = urls.iter().map(|url| (*url).to_owned()).collect();
    Client::new(&Access { endpoints, ..Access::default() }).expect("a client")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn txn(compare: Compare, success: RequestOp, failure: RequestOp) -> TxnRequest {
    TxnRequest { compare: vec![compare], success: vec![success], failure: vec![failure] }
}

#[test]
fn a_prefix_ends_before_the_next_key() {
    assert_eq!(end_of_prefix("a/"), b"a0");
    assert_eq!(end_of_prefix(""), [0]);
}

#[test]
fn keys_are_written_read_compared_and_deleted() {
    block_on(async {
        let Some(etcd) = etcd(&[]).await else { return };
        let client = client(&[&etcd.url]);
        let request = txn(is_at("/a", 0), put("/a", "1"), get("/a"));
        let done = client.txn(request.clone()).await.expect("an answer");
        assert!(done.succeeded);
        let done = client.txn(request).await.expect("an answer");
        assert!(!done.succeeded);
        assert_eq!(done.read(0)[0].value, b"1");
        let revision = done.read(0)[0].mod_revision;
        let request = txn(is_at("/a", revision), put("/a", "2"), get("/a"));
        assert!(client.txn(request).await.expect("an answer").succeeded);
        assert!(client.txn(txn(exists("/a"), get("/a"), get("/a"))).await.expect("one").succeeded);
        assert!(!client.txn(txn(exists("/b"), get("/a"), get("/a"))).await.expect("one").succeeded);
        client
            .put(PutRequest { key: b"/ab".to_vec(), value: b"3".to_vec(), lease: 0 })
            .await
            .expect("written");
        let all = RangeRequest { limit: 1, ..RangeRequest::of_prefix("/a") };
        let found = client.range(all.clone()).await.expect("keys");
        assert!(found.more && found.count == 2 && found.kvs.len() == 1, "{found:?}");
        // The value as of the revision before.
        let then = RangeRequest { revision, ..all };
        assert_eq!(client.range(then).await.expect("keys").kvs[0].value, b"1");
        let key = DeleteRangeRequest::of_prefix("/a");
        assert_eq!(client.delete_range(key).await.expect("deleted").deleted, 2);
        let status = client.status(0).await.expect("a status");
        assert!(status.leader != 0 && !status.version.is_empty(), "{status:?}");
    });
}

#[test]
fn a_watch_brings_what_happens_until_its_revision_is_compacted() {
    block_on(async {
        let Some(etcd) = etcd(&[]).await else { return };
        let client = client(&[&etcd.url]);
        let write = async |key: &str, value: &str| {
            let put = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
            let answer = client.put(put).await.expect("written");
            answer.header.expect("a header").revision
        };
        let first = write("/a/1", "one").await;
        write("/b", "not watched").await;
        let mut watch = client.watch("/a/", first).await.expect("a watch");
        let events = watch.next().await.expect("events");
        assert_eq!(events.len(), 1);
        let last = write("/a/2", "two").await;
        let events = watch.next().await.expect("events");
        let kv = events[0].kv.clone().expect("a key");
        assert_eq!((kv.value, kv.mod_revision), (b"two".to_vec(), last));
        let key = DeleteRangeRequest::of_key("/a/1");
        client.delete_range(key).await.expect("deleted");
        let events = watch.next().await.expect("events");
        assert_eq!(events[0].kind(), message::EventKind::Delete);
        let compacted = Command::new("etcdctl")
            .args(["--endpoints", &etcd.url, "compact", &(last + 1).to_string()])
            .env("ETCDCTL_API", "3")
            .output()
            .expect("etcdctl");
        assert!(compacted.status.success(), "{compacted:?}");
        let outcome = match client.watch("/a/", first).await {
            Ok(mut watch) => watch.next().await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert_eq!(outcome, Err(EtcdError::Compacted));
        let old = RangeRequest { key: b"/a".into(), revision: first, ..RangeRequest::default() };
        assert_eq!(client.range(old).await.expect_err("gone"), EtcdError::Compacted);
    });
}

#[test]
fn a_lease_is_renewed_until_it_is_revoked() {
    block_on(async {
        let Some(etcd) = etcd(&[]).await else { return };
        let client = client(&[&etcd.url]);
        let lease = client.grant(30).await.expect("a lease");
        let put = PutRequest { key: b"/n".to_vec(), value: b"x".to_vec(), lease };
        client.put(put).await.expect("written");
        assert!(client.keep_alive(lease).await.expect("an answer"));
        client.revoke(lease).await.expect("revoked");
        assert!(!client.keep_alive(lease).await.expect("an answer"));
        assert!(client.get("/n").await.expect("an answer").kvs.is_empty());
    });
}

#[test]
fn a_full_store_says_so() {
    block_on(async {
        let Some(etcd) = etcd(&["--quota-backend-bytes=100000"]).await else { return };
        let client = client(&[&etcd.url]);
        let mut error = None;
        for _ in 0..20 {
            let value = vec![b'x'; 100_000];
            let put = PutRequest { key: b"/a".to_vec(), value, lease: 0 };
            if let Err(found) = client.put(put).await {
                error = Some(found);
                break;
            }
        }
        assert_eq!(error, Some(EtcdError::NoSpace));
        let put = PutRequest { key: b"/a".to_vec(), value: b"x".to_vec(), lease: 0 };
        assert_eq!(client.put_again(put).await, Err(EtcdError::NoSpace));
    });
}

fn control(url: &str, login: Option<&str>, arguments: &[&str]) {
    let mut command = Command::new("etcdctl");
    command.args(["--endpoints", url]).env("ETCDCTL_API", "3").stdin(Stdio::null());
    if let Some(login) = login {
        command.args(["--user", login]);
    }
    let done = command.args(arguments).output().expect("etcdctl");
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

#[test]
fn a_user_is_logged_in_again_when_the_token_has_expired() {
    block_on(async {
        let Some(etcd) = etcd(&["--auth-token-ttl=1"]).await else { return };
        control(&etcd.url, None, &["user", "add", "root:secret"]);
        control(&etcd.url, None, &["user", "grant-role", "root", "root"]);
        control(&etcd.url, None, &["user", "add", "m:word"]);
        control(&etcd.url, None, &["role", "add", "m"]);
        let grant = ["role", "grant-permission", "m", "--prefix=true", "readwrite", "/m/"];
        control(&etcd.url, None, &grant);
        control(&etcd.url, None, &["user", "grant-role", "m", "m"]);
        control(&etcd.url, None, &["auth", "enable"]);
        let of = |password: &str| {
            let login = Some(("m".to_owned(), password.to_owned()));
            let access = Access { endpoints: vec![etcd.url.clone()], login, ..Access::default() };
            Client::new(&access).expect("a client")
        };
        let error = of("wrong").get("/m/a").await.expect_err("refused");
        assert!(matches!(error, EtcdError::Denied(_)), "{error:?}");
        let error = client(&[&etcd.url]).get("/m/a").await.expect_err("refused");
        assert!(matches!(error, EtcdError::Denied(_)), "{error:?}");
        let client = of("word");
        client.get("/m/a").await.expect("allowed");
        let error = client.get("/other").await.expect_err("refused");
        assert!(matches!(error, EtcdError::Denied(_)), "{error:?}");
        // A token that the store does not know any more.
        *client.lock_token() = Some(MetadataValue::from_static("stale.1"));
        client.get("/m/a").await.expect("logged in again");
        *client.lock_token() = Some(MetadataValue::from_static("stale.1"));
        let outcome = match client.watch("/m/", 0).await {
            Ok(mut watch) => watch.next().await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(matches!(outcome, Err(EtcdError::Token(_))), "{outcome:?}");
        client.watch("/m/", 0).await.expect("logged in again");
    });
}

#[test]
fn a_member_that_is_gone_or_silent_is_passed_over() {
    block_on(async {
        let Some(etcd) = etcd(&[]).await else { return };
        let gone = format!("http://127.0.0.1:{}", free_port());
        let found = client(&[&gone, &etcd.url]).get("/a").await;
        found.expect("the other one answers");
        // An endpoint that takes connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent = format!("http://{}", silent.local_addr().expect("its address"));
        let client = client(&[&silent, &etcd.url]);
        client.get("/a").await.expect("the other one answers");
        let put = PutRequest { key: b"/a".to_vec(), ..PutRequest::default() };
        client.put(put).await.expect("the other one is asked from now on");
        client.turn_away();
        let put = PutRequest { key: b"/a".to_vec(), ..PutRequest::default() };
        let error = client.put(put).await.expect_err("nobody says whether it was made");
        assert!(matches!(error, EtcdError::Unreachable(_)), "{error:?}");
    });
}
