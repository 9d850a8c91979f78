//! TLS terminators in front, as `docs/https.md` has them: each example of `docs/examples/https` is
//! run with a daemon behind it, where its program is installed.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::json;

use crate::api::empty;
use crate::backend::{Backend, Serving, closed_port};
use crate::daemon::{Daemon, Setup, eventually};
use crate::docs::page::Page;
use crate::guard::{TOKEN, with_token};

/// A terminator that runs until it is dropped.
struct Front {
    child: Child,
    http: u16,
    https: u16,
    folder: tempfile::TempDir,
}

impl Front {
    /// Runs a program on an example, in which `change` replaces what is of this machine.
    fn start(
        program: &str,
        example: &str,
        change: impl Fn(&Path, u16, u16, String) -> (String, Command),
    ) -> Front {
        let folder = tempfile::Builder::new().prefix("mantrid-front-").tempdir().expect("a folder");
        let (http, https) = (closed_port(), closed_port());
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/https").join(example);
        let text = fs::read_to_string(&file).expect("an example");
        let (text, mut command) = change(folder.path(), http, https, text);
        fs::write(folder.path().join(example), text).expect("its configuration");
        certificate(folder.path());
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let out = log.try_clone().expect("a handle");
        command.current_dir(folder.path()).env("HOME", folder.path());
        command.env("XDG_DATA_HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
        let child = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut front = Front { child, http, https, folder };
        eventually("the terminator accepts", || {
            let ended = front.child.try_wait().expect("its status");
            assert!(ended.is_none(), "{program} ended:\n{}", front.log());
            TcpStream::connect(("127.0.0.1", https)).is_ok()
        });
        front
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What `curl` says of a request: status and target of a redirect, or how it failed.
    fn ask(&self, scheme: &str, host: &str, more: &[&str]) -> (i32, String) {
        let port = if scheme == "https" { self.https } else { self.http };
        let resolve = format!("{host}:{port}:127.0.0.1");
        let url = format!("{scheme}://{host}:{port}/path");
        let told = ["-sk", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"];
        let mut command = Command::new("curl");
        command.args(told).args(["--max-time", "20", "--resolve", &resolve]).args(more).arg(url);
        let ended = command.output().expect("curl");
        let text = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
        (ended.status.code().unwrap_or(-1), text)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the terminator\n{}", self.log());
        }
        let pid = i32::try_from(self.child.id()).expect("a process id");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        drop(self.child.wait());
    }
}

/// A key, a certificate, and both in one file.
fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=shop.example", "-keyout", "sites.key", "-out", "sites.crt"])
        .current_dir(folder)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect(name);
    fs::create_dir(folder.join("certs")).expect("a folder");
    let both = read("sites.key") + &read("sites.crt");
    fs::write(folder.join("certs/sites.pem"), both).expect("a certificate with its key");
}

/// Whether these programs are here.
fn are_here(programs: &[(&str, &str)]) -> bool {
    let missing = programs.iter().find(|(program, version)| {
        let found = Command::new(program).arg(version).output();
        !found.is_ok_and(|found| found.status.success())
    });
    if let Some((program, _)) = missing {
        eprintln!("skipped: no {program} here");
    }
    missing.is_none()
}

fn behind(setup: Setup) -> (Daemon, Serving) {
    let backend = Backend::new().serve_text("hello");
    let daemon = setup
        .rule("https://shop.example", backend.rule())
        .rule(
            "http://shop.example",
            json!(["redirect", {"redirect_to": "https://shop.example", "code": 301}, false]),
        )
        .rule("https://gone.example", empty(410))
        .management_tcp()
        .start();
    (daemon, backend)
}

/// Fields by which a client would like to be taken for another one.
const LIES: &[&str] = &[
    "-HX-Forwarded-For: 6.6.6.6",
    "-HX-Forwarded-Protocol: http",
    "-HX-Forwarded-Proto: http",
    "-HX-Forwarded-Host: 6.6.6.6",
    "-HForwarded: for=6.6.6.6;proto=http",
    "-HX-Real-IP: 6.6.6.6",
];

/// The client's address and scheme arrive, whatever the client says of itself.
#[track_caller]
fn expect_terminated(front: &Front, backend: &Serving) {
    for lies in [&[][..], LIES] {
        assert_eq!(front.ask("https", "shop.example", lies), (0, "200".to_owned()), "{lies:?}");
        let heads = backend.take_heads();
        let [head] = &heads[..] else { panic!("{} requests", heads.len()) };
        assert_eq!(head.field("X-Forwarded-For"), Some("127.0.0.1"), "{head:#?}");
        assert_eq!(head.field("X-Forwarded-Proto"), Some("https"), "{head:#?}");
        assert_eq!(head.field("X-Forwarded-Protocol"), None, "{head:#?}");
        let is_lie = |(_, value): &(String, String)| value.contains("6.6.6.6");
        assert!(!head.fields.iter().any(is_lie), "{head:#?}");
        let host = head.field("Host").expect("a host");
        assert_eq!(host, format!("shop.example:{}", front.https));
    }
    assert_eq!(front.ask("https", "gone.example", LIES), (0, "410".to_owned()));
}

#[track_caller]
fn expect_plain_redirected(front: &Front) {
    for lies in [&[][..], &["-HX-Forwarded-Proto: https", "-HX-Forwarded-Protocol: https"]] {
        let told = "301 https://shop.example/path".to_owned();
        assert_eq!(front.ask("http", "shop.example", lies), (0, told), "{lies:?}");
    }
}

#[test]
fn caddy_gets_certificates_for_names_that_have_a_rule() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("caddy", "version")]) {
        return;
    }
    let (daemon, backend) = behind(Setup::new().internal());
    let front = caddy(&daemon, str::to_owned);
    expect_terminated(&front, &backend);
    expect_plain_redirected(&front);
    // no rule, no certificate: the handshake fails
    let (code, _) = front.ask("https", "new.example", &[]);
    assert_eq!(code, 35);
    daemon.api().put("/hostname/new.example/", &empty(402));
    assert_eq!(front.ask("https", "new.example", &[]), (0, "402".to_owned()));
}

fn caddy(daemon: &Daemon, change: impl Fn(&str) -> String) -> Front {
    Front::start("caddy", "Caddyfile", |folder, http, https, text| {
        let folder = folder.display();
        let ours = format!(
            "{{\n admin off\n http_port {http}\n https_port {https}\n local_certs\n \
             skip_install_trust\n storage file_system {folder}/storage\n"
        );
        let text = change(&text)
            .replacen("\n{\n", &format!("\n{ours}"), 1)
            .replace("127.0.0.1:8081", &daemon.internal_address().to_string())
            .replace("127.0.0.1:8042", &daemon.api_address().to_string());
        let mut command = Command::new("caddy");
        command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
        command.env("MANTRID_TOKEN", TOKEN);
        (text, command)
    })
}

/// By the site of its own that `docs/https.md` has.
#[test]
fn caddy_asks_with_a_token() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("caddy", "version")]) {
        return;
    }
    let (daemon, backend) = behind(with_token(TOKEN.as_bytes()).internal());
    let page = Page::read("docs/https.md");
    let site = &page.all("text").next().expect("a site").text;
    let asked = closed_port();
    let front = caddy(&daemon, |text| {
        let text = text.replace("http://127.0.0.1:8042/which/", "http://127.0.0.1:8043/which/");
        format!("{text}\n{site}").replace("127.0.0.1:8043", &format!("127.0.0.1:{asked}"))
    });
    expect_terminated(&front, &backend);
    assert_eq!(front.ask("https", "new.example", &[]).0, 35);
    // and it passes on nothing else
    let other = format!("http://127.0.0.1:{asked}/hostname/");
    let told = Command::new("curl").args(["-s", &other]).output().expect("curl");
    assert_eq!(String::from_utf8_lossy(&told.stdout), "");
}

#[test]
fn nginx_hands_on_who_and_how() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("nginx", "-v")]) {
        return;
    }
    let (daemon, backend) = behind(Setup::new().internal());
    let front = nginx(&daemon, str::to_owned);
    expect_terminated(&front, &backend);
    expect_plain_redirected(&front);
}

fn nginx(daemon: &Daemon, change: impl Fn(&str) -> String) -> Front {
    Front::start("nginx", "nginx.conf", |folder, http, https, text| {
        let folder = folder.display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
            .concat();
        let user = if geteuid().is_root() { "user root;\n" } else { "" };
        let text = change(&text)
            .replace("listen 80;", &format!("listen 127.0.0.1:{http};"))
            .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{https} ssl;"))
            .replace("/etc/ssl", &folder)
            .replace("127.0.0.1:8081", &daemon.internal_address().to_string())
            .replace("http {\n", &format!("http {{\n{temporary}"));
        let text = format!("{user}daemon off;\npid {folder}/pid;\n{text}");
        let mut command = Command::new("nginx");
        command.args(["-p", &folder, "-e", "stderr", "-c", "nginx.conf"]);
        (text, command)
    })
}

#[test]
fn haproxy_hands_on_who_and_how() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("haproxy", "-v")]) {
        return;
    }
    let (daemon, backend) = behind(Setup::new().internal());
    let front = haproxy(&daemon, str::to_owned);
    expect_terminated(&front, &backend);
    expect_plain_redirected(&front);
}

fn haproxy(daemon: &Daemon, change: impl Fn(&str) -> String) -> Front {
    Front::start("haproxy", "haproxy.cfg", |folder, http, https, text| {
        let text = change(&text)
            .replace("bind :80\n", &format!("bind 127.0.0.1:{http}\n"))
            .replace("bind :443 ", &format!("bind 127.0.0.1:{https} "))
            .replace("/etc/haproxy", &folder.display().to_string())
            .replace("maxconn 20000", "maxconn 100")
            .replace("127.0.0.1:8081", &daemon.internal_address().to_string());
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "haproxy.cfg"]);
        (text, command)
    })
}

#[test]
fn hitch_hands_on_who_and_how() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("hitch", "--version")]) {
        return;
    }
    let setup = Setup::new()
        .add("bind", "127.0.0.1:0 accept-proxy https")
        .set("trusted_sources", "127.0.0.1");
    let (daemon, backend) = behind(setup);
    let terminated = daemon.addresses[1];
    let user = if geteuid().is_root() { "user = \"nobody\"\n" } else { "" };
    let front = Front::start("hitch", "hitch.conf", |folder, _, https, text| {
        let text = text
            .replace("[*]:443", &format!("[127.0.0.1]:{https}"))
            .replace("[127.0.0.1]:8081", &format!("[127.0.0.1]:{}", terminated.port()))
            .replace("/etc/hitch/sites.pem", &folder.join("certs/sites.pem").display().to_string())
            .replace("user = \"hitch\"\n", user)
            .replace("workers = 2", "workers = 1");
        let mut command = Command::new("hitch");
        command.args(["--config", "hitch.conf"]);
        (text, command)
    });
    expect_terminated(&front, &backend);
}

/// A client of the CDN, whose address ends in the field; what stands before it is the client's own.
#[track_caller]
fn expect_told_by_the_cdn(daemon: &Daemon, front: &Front) {
    let rule = json!(["empty", {"code": 402, "allow": "198.51.100.7"}, false]);
    daemon.api().put("/hostname/cdn.example/", &rule);
    for (field, status) in [
        ("-HX-Forwarded-For: 6.6.6.6, 198.51.100.7", "402"),
        ("-HX-Forwarded-For: 198.51.100.7, 6.6.6.6", "403"),
        ("-HX-Forwarded-For: 6.6.6.6, 198.51.100.7, 203.0.113.9", "402"),
        ("-HX-Forwarded-Protocol: http", "403"),
    ] {
        let told = front.ask("https", "cdn.example", &[field]);
        assert_eq!(told, (0, status.to_owned()), "{field}");
    }
}

/// With the CDN's networks in a file, as `docs/https.md` says.
fn behind_a_cdn() -> (Daemon, Serving) {
    let setup = Setup::new().internal();
    let file = setup.path("cdn.txt");
    fs::write(&file, "# the CDN\n203.0.113.0/24\n").expect("a file");
    let setup = setup.set("client_field", "X-Forwarded-For");
    behind(setup.set("trusted_sources", format!("127.0.0.1, @{}", file.display())))
}

/// The example of a server with the lines that change behind a CDN.
fn for_the_cdn(server: &str, text: &str) -> String {
    let page = Page::read("docs/https.md");
    let (_, table) = page.text.split_once("## Behind a CDN").expect("the section");
    let mut changed = text.to_owned();
    let mut of = String::new();
    let mut count = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let [name, before, after] = cells[..] else { continue };
        if !name.is_empty() {
            name.clone_into(&mut of);
        }
        if of != server {
            continue;
        }
        let code = |cell: &str| -> String {
            cell.split('`').skip(1).step_by(2).collect::<Vec<_>>().join("\n")
        };
        let (before, after) = (code(before), code(after));
        assert!(changed.contains(&before), "{server}: {before}");
        changed = changed.replace(&before, &after);
        count += 1;
    }
    assert_ne!(count, 0, "{server} is not in the table");
    changed
}

#[test]
fn nginx_behind_a_cdn_hands_on_the_client() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("nginx", "-v")]) {
        return;
    }
    let (daemon, _backend) = behind_a_cdn();
    let front = nginx(&daemon, |text| for_the_cdn("nginx", text));
    expect_told_by_the_cdn(&daemon, &front);
}

#[test]
fn haproxy_behind_a_cdn_hands_on_the_client() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("haproxy", "-v")]) {
        return;
    }
    let (daemon, _backend) = behind_a_cdn();
    let front = haproxy(&daemon, |text| for_the_cdn("HAProxy", text));
    expect_told_by_the_cdn(&daemon, &front);
}

#[test]
fn caddy_behind_a_cdn_hands_on_the_client() {
    if !are_here(&[("curl", "--version"), ("openssl", "version"), ("caddy", "version")]) {
        return;
    }
    let (daemon, _backend) = behind_a_cdn();
    daemon.api().put("/hostname/cdn.example/", &empty(402));
    // curl is the CDN here
    let front =
        caddy(&daemon, |text| for_the_cdn("Caddy", text).replace("198.51.100.0/24", "127.0.0.0/8"));
    expect_told_by_the_cdn(&daemon, &front);
}
