//! Tokens with names, roles and hosts of their own: `management_tokens_file`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port};
use crate::daemon::{Daemon, Setup, eventually};
use crate::etcd::Etcd;
use crate::events::Events;
use crate::fleet::node;
use crate::guard::{TOKEN, with_token};
use crate::manage::Api;
use crate::management::Call;
use crate::message::get;

pub const TOKENS: &str = "\
# the team
alice admin   alice-0123456789
bob   operate bob-0123456789     # the night shift
rita  read    rita-0123456789

shop  admin   shop-0123456789  Shop.Example
desk  operate desk-0123456789  shop.example
view  read    view-0123456789  shop.example
";

fn write(setup: &Setup, text: impl AsRef<[u8]>) {
    let file = setup.path("tokens");
    fs::write(&file, text).expect("a file of tokens");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("its mode");
}

/// A setup with these tokens.
pub fn with_tokens(setup: Setup, text: impl AsRef<[u8]>) -> Setup {
    write(&setup, text);
    let file = setup.path("tokens").display().to_string();
    setup.set("management_tokens_file", file)
}

pub fn of(daemon: &Daemon, name: &str) -> Api {
    daemon.api().with(&format!("Authorization: Bearer {name}-0123456789"))
}

fn proxy(weights: Value) -> Value {
    json!(["proxy", {"backends": [["127.0.0.1", 9], ["127.0.0.2", 9]], "weights": weights}, false])
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn each_role_may_do_what_it_is_for() {
    let rule = proxy(json!([2, 1]));
    let setup = with_tokens(Setup::new(), TOKENS).rule("a.com", rule.clone());
    let daemon = setup.start();
    daemon.api().ask("GET", "/hostname/").expect_error(401, "token_missing");
    of(&daemon, "eve").ask("GET", "/hostname/").expect_error(401, "token_wrong");
    let spin = json!(["spin", {"then": rule}, false]);
    let [mut alice, mut bob, mut rita] = ["alice", "bob", "rita"].map(|name| of(&daemon, name));
    for path in [
        "/hostname/",
        "/hostname/a.com/",
        "/stats/",
        "/backends/",
        "/fleet/",
        "/metrics",
        "/healthz",
        "/readyz",
    ] {
        for api in [&mut alice, &mut bob, &mut rita] {
            api.ask("GET", path).expect_status(200);
        }
    }
    for (method, path, body) in [
        ("PUT", "/hostname/a.com/", &spin),
        ("PATCH", "/hostname/", &json!({"a.com": spin})),
        ("PUT", "/hostname/", &json!({})),
        ("DELETE", "/hostname/a.com/", &json!(null)),
        ("PUT", "/hostname/a.com/?dry_run=1", &spin),
        ("POST", "/fleet/leave", &json!(null)),
    ] {
        rita.tell(method, path, body).expect_error(403, "role_insufficient");
    }
    // Spin, another limit, flip, drain and back.
    for rule in [
        &spin,
        &json!(["spin", {"then": rule, "timeout": 5}, false]),
        &rule,
        &proxy(json!([0, 1])),
        &rule,
    ] {
        bob.put("/hostname/a.com/", rule);
        bob.patch(&json!({"a.com": rule}));
        assert_eq!(bob.get("/hostname/a.com/")[0], rule[0]);
    }
    for (method, path, body, code) in [
        ("PUT", "/hostname/a.com/", &empty(404), "a.com:role_insufficient"),
        ("PUT", "/hostname/a.com/?dry_run=1", &empty(404), "a.com:role_insufficient"),
        ("PUT", "/hostname/b.com/", &rule, "b.com:role_insufficient"),
        ("PATCH", "/hostname/", &json!({"a.com": spin, "b.com": rule}), "b.com:role_insufficient"),
        ("DELETE", "/hostname/a.com/", &json!(null), "a.com:role_insufficient"),
        ("PUT", "/hostname/", &json!({"a.com": spin}), "role_insufficient"),
        ("POST", "/fleet/leave", &json!(null), "role_insufficient"),
    ] {
        bob.tell(method, path, body).expect_error(403, code);
    }
    assert_eq!(alice.get("/hostname/"), json!({"a.com": rule}), "nothing was made by half");
    alice.put("/hostname/b.com/", &empty(404));
    alice.put("/hostname/", &json!({"a.com": rule}));
    alice.tell("POST", "/fleet/leave", &json!(null)).expect_error(409, "no_fleet");
}

#[test]
fn the_name_is_in_the_log_and_the_token_is_not() {
    let setup = with_tokens(with_token(TOKEN.as_bytes()), TOKENS);
    let daemon = setup.rule("a.com", empty(404)).management_tcp().start();
    let mut events = Events::over(of(&daemon, "rita"), "?only=change");
    let asker = events.expect("hello")["asker"].clone();
    assert_eq!(asker, json!({"name": "rita", "role": "read", "suffix": null}));
    let mut alice = daemon.api_tcp().with("Authorization: Bearer alice-0123456789");
    alice.put("/hostname/b.com/", &empty(404));
    assert_eq!(events.expect("change")["who"], "alice");
    daemon.expect_log(&["audit who=alice from=127.0.0.1:", "\"b.com\"", "\"done\""]);
    alice
        .tell("PUT", "/hostname/c.com/", &json!([]))
        .expect_error(400, "c.com:host_details_wrong_length");
    daemon.expect_log(&["audit who=alice from=127.0.0.1:", "host_details_wrong_length"]);
    of(&daemon, "rita")
        .tell("PUT", "/hostname/a.com/", &empty(404))
        .expect_error(403, "role_insufficient");
    daemon.expect_log(&["audit who=rita from=uid ", "role_insufficient"]);
    of(&daemon, "bob")
        .tell("PUT", "/hostname/a.com/", &empty(405))
        .expect_error(403, "a.com:role_insufficient");
    daemon.expect_log(&["audit who=bob from=uid ", "\"a.com\"", "role_insufficient"]);
    // The token of all has no name.
    let mut any = daemon.api_tcp().with(&format!("Authorization: Bearer {TOKEN}"));
    any.put("/hostname/", &json!({}));
    daemon.expect_log(&["audit who=127.0.0.1:", "PUT", "\"done\""]);
    assert_eq!(events.expect("change")["who"].as_str().map(|who| &who[..10]), Some("127.0.0.1:"));
    let log = daemon.log.text();
    assert!(!log.contains("-0123456789") && !log.contains(TOKEN), "a token is in the log");
}

#[test]
fn a_tenant_changes_its_own_hosts_alone() {
    let setup = with_tokens(Setup::new(), TOKENS);
    let rule = proxy(json!([2, 1]));
    let setup = setup.rule("shop.example", rule.clone()).rule("www.shop.example", empty(404));
    let daemon = setup.rule("myshop.example", empty(402)).rule("a.com", empty(403)).start();
    let mut alice = of(&daemon, "alice");
    let before = alice.get("/hostname/");
    let mut shop = of(&daemon, "shop");
    for (method, path, body, code) in [
        ("PUT", "/hostname/", &json!({"shop.example": rule}), "outside_suffix"),
        ("PUT", "/hostname/a.com/", &empty(404), "a.com:outside_suffix"),
        ("PUT", "/hostname/myshop.example/", &empty(404), "myshop.example:outside_suffix"),
        ("DELETE", "/hostname/a.com/", &json!(null), "a.com:outside_suffix"),
        ("GET", "/hostname/a.com/", &json!(null), "a.com:outside_suffix"),
        ("GET", "/hostname/http:%2F%2Fa.com/", &json!(null), "http://a.com:outside_suffix"),
        ("GET", "/stats/A.com./", &json!(null), "a.com:outside_suffix"),
        ("GET", "/stats/unknown/", &json!(null), "unknown:outside_suffix"),
        ("GET", "/events?host=a.com", &json!(null), "a.com:outside_suffix"),
        (
            "PATCH",
            "/hostname/",
            &json!({"shop.example": empty(404), "a.com": null}),
            "a.com:outside_suffix",
        ),
        (
            "PATCH",
            "/hostname/?dry_run=1",
            &json!({"shop.example": empty(404), "a.com": null}),
            "a.com:outside_suffix",
        ),
        (
            "PUT",
            "/hostname/x.shop.example/",
            &json!(["alias", {"hostname": "a.com"}, false]),
            "x.shop.example:outside_suffix",
        ),
        ("POST", "/fleet/leave", &json!(null), "outside_suffix"),
    ] {
        shop.tell(method, path, body).expect_error(403, code);
    }
    assert_eq!(alice.get("/hostname/"), before, "nothing was made by half");
    shop.put("/hostname/Shop.example/", &empty(404));
    shop.put("/hostname/http://new.shop.example/", &empty(404));
    shop.patch(&json!({"new.shop.example": empty(404), "www.shop.example": null}));
    shop.delete("new.shop.example");
    let mut desk = of(&daemon, "desk");
    desk.tell("PUT", "/hostname/shop.example/", &empty(405))
        .expect_error(403, "shop.example:role_insufficient");
    desk.tell("PUT", "/hostname/a.com/", &empty(403)).expect_error(403, "a.com:outside_suffix");
    desk.put("/hostname/shop.example/", &json!(["spin", {"then": empty(404)}, empty(404)[2]]));
    of(&daemon, "view")
        .tell("PUT", "/hostname/shop.example/", &empty(404))
        .expect_error(403, "role_insufficient");
}

#[test]
fn a_tenant_sees_its_own_hosts_alone() {
    let [own, other] = [(); 2].map(|()| Backend::new().serve_text("x"));
    let check = |rule: &Value| {
        let mut rule = rule.clone();
        rule[1]["check"] = json!("tcp");
        rule
    };
    let (own_rule, other_rule) = (check(&own.rule()), check(&other.rule()));
    let setup = with_tokens(Setup::new(), TOKENS).rule("shop.example", own_rule.clone());
    let daemon = setup.rule("a.com", other_rule).rule("b.com", empty(403)).start();
    let mut client = daemon.connect();
    for host in ["shop.example", "a.com", "a.com", "nowhere.com"] {
        client.exchange(get(host, "/"));
    }
    let [mut alice, mut shop] = ["alice", "view"].map(|name| of(&daemon, name));
    alice.counted("a.com", 2);
    shop.counted("shop.example", 1);
    let answer = shop.ask("GET", "/hostname/").expect_status(200);
    assert_eq!(names(&answer.json()), ["shop.example"]);
    assert_eq!(answer.head.field("Mantrid-Rules"), Some("1"));
    assert_eq!(answer.head.field("Mantrid-Matched"), Some("1"));
    assert_eq!(names(&shop.get("/hostname/?search=com")), [] as [&str; 0]);
    assert_eq!(names(&shop.get("/stats/")), ["shop.example"]);
    assert_eq!(names(&shop.get("/stats/?busiest=2")), ["shop.example"]);
    assert_eq!(names(&alice.get("/stats/?busiest=1")), ["a.com"]);
    let address = |rule: &Value| {
        let backend = &rule[1]["backends"][0];
        format!("{}:{}", backend[0].as_str().expect("an address"), backend[1])
    };
    assert_eq!(names(&shop.get("/backends/")), [address(&own_rule)]);
    assert_eq!(names(&alice.get("/backends/")).len(), 2);
    for (api, sees) in [(&mut alice, true), (&mut shop, false)] {
        let text = api.ask("GET", "/metrics").expect_status(200).text();
        assert!(text.contains("host=\"shop.example\"") && text.contains(&address(&own_rule)));
        assert_eq!(text.contains("a.com"), sees, "{text}");
        assert_eq!(text.contains(&address(&other.rule())), sees, "{text}");
        assert_eq!(text.contains("host=\"unknown\""), sees);
    }
}

#[test]
fn a_tenant_hears_of_its_own_hosts_alone() {
    let setup = with_tokens(Setup::new(), TOKENS).rule("shop.example", empty(404));
    let daemon = setup.rule("a.com", empty(403)).start();
    let mut client = daemon.connect();
    for host in ["shop.example", "a.com"] {
        client.exchange(get(host, "/"));
    }
    let mut shop = Events::over(of(&daemon, "view"), "?only=change,traffic,held&busiest=10");
    let hello = shop.expect("hello");
    assert_eq!(hello["rules"], 1);
    assert_eq!(hello["asker"]["suffix"], "shop.example");
    let mut alice = of(&daemon, "alice");
    let own = |event: &Value| !event["busiest"].as_array().expect("a list").is_empty();
    let traffic = shop.until("traffic", own);
    assert_eq!(traffic["busiest"].as_array().map(Vec::len), Some(1), "{traffic}");
    assert_eq!(traffic["busiest"][0]["host"], "shop.example");
    assert_eq!(traffic["rules"], 1);
    // Those of others do not come, and of several hosts the tenant's alone.
    alice.put("/hostname/b.com/", &empty(404));
    alice.put("/hostname/a.com/", &json!(["spin", {}, false]));
    let mut held = daemon.connect();
    held.send(get("a.com", "/"));
    alice.patch(&json!({"c.com": empty(404), "x.shop.example": empty(404)}));
    let not_traffic = |shop: &mut Events| loop {
        let (name, data) = shop.next();
        if name != "traffic" {
            return (name, data);
        }
    };
    let (name, change) = not_traffic(&mut shop);
    assert_eq!((&*name, &change["changed"]), ("change", &json!(1)), "{change}");
    assert_eq!(names(&change["hosts"]), ["x.shop.example"]);
    alice.put("/hostname/", &json!({"d.com": empty(404), "e.com": empty(404)}));
    let (name, change) = not_traffic(&mut shop);
    assert_eq!((&*name, &change["hosts"]), ("change", &json!({})), "the host was deleted");
}

#[test]
fn tokens_are_read_again_on_hup_and_given_to_the_next_daemon() {
    let setup = with_tokens(with_token(TOKEN.as_bytes()), TOKENS).rule("a.com", empty(404));
    let mut daemon = setup.clone().start();
    let status = |daemon: &Daemon, name: &str, expected: u16| {
        of(daemon, name).ask("GET", "/hostname/").expect_status(expected);
    };
    let mut events = Events::over(of(&daemon, "rita"), "");
    events.expect("hello");
    let stays = Events::over(of(&daemon, "bob"), "?only=change");
    write(&setup, "carol admin carol-0123456789\nbob operate bob-0123456789\n");
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: the configuration is in force"]);
    for (name, code) in [("carol", 200), ("bob", 200), ("alice", 401), ("rita", 401)] {
        status(&daemon, name, code);
    }
    events.expect_over();
    let mut stays = stays;
    stays.expect("hello");
    of(&daemon, "carol").put("/hostname/b.com/", &empty(404));
    assert_eq!(stays.expect("change")["who"], "carol");
    // A broken file leaves the tokens, and is not said to be in force.
    write(&setup, "# new\ndave admin dave-0123456789\neve s3cret-word admin\n");
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: management_tokens_file", "tokens:3: ", "role"]);
    daemon.expect_log(&["SIGHUP: the configuration stays as it was"]);
    status(&daemon, "carol", 200);
    status(&daemon, "dave", 401);
    daemon.upgrade_fails_for_tokens(&setup);
    write(&setup, "carol admin carol-0123456789\n");
    daemon.upgrade();
    status(&daemon, "carol", 200);
    status(&daemon, "bob", 401);
    let mut any = daemon.api().with(&format!("Authorization: Bearer {TOKEN}"));
    any.get("/hostname/");
    let log = daemon.log.text();
    assert!(!log.contains("s3cret-word") && !log.contains("-0123456789"), "a token is in the log");
}

impl Daemon {
    /// A new daemon does not start on a broken file; the old one goes on.
    #[track_caller]
    fn upgrade_fails_for_tokens(&mut self, setup: &Setup) {
        write(setup, "x\n");
        self.signal("USR2");
        self.expect_log(&["management_tokens_file", "tokens:1: expected NAME ROLE TOKEN"]);
        self.expect_log(&["upgrade: ", "Going on as if nothing had happened"]);
    }
}

#[test]
fn a_broken_file_stops_the_start_and_names_the_line() {
    for (text, place) in [
        (&b"alice admin s3cret-word\nbob admin s3cret-word\n"[..], "tokens:2: its token"),
        (b"\n\nalice chief s3cret-word\n", "tokens:3: its role"),
        (b"alice admin s3cret-word a..b\n", "tokens:1: its suffix"),
        (b"alice admin\n", "tokens:1: expected NAME ROLE TOKEN [SUFFIX]"),
        (b"alice admin ok-1\nbob read \xff\xfe\n", "tokens:2: expected text in UTF-8"),
        (b"# nobody\n", "tokens: it has no token"),
    ] {
        for arguments in [&["--check"][..], &[]] {
            let finished = with_tokens(Setup::new(), text).run(arguments);
            finished.expect(1, &["management_tokens_file", place]);
            let said = format!("{}{}", finished.out, finished.err);
            assert!(!said.contains("s3cret-word"), "{said}");
        }
    }
    let both = with_tokens(with_token(b"alice-0123456789"), TOKENS);
    both.run(&[]).expect(1, &["the token of alice is that of management_token_file, too"]);
    let missing = Setup::new().set("management_tokens_file", "/nowhere/tokens");
    missing.run(&[]).expect(1, &["management_tokens_file = /nowhere/tokens"]);
    let open = with_tokens(Setup::new(), TOKENS);
    fs::set_permissions(open.path("tokens"), PermissionsExt::from_mode(0o644)).expect("its mode");
    open.start().expect_log(&["management_tokens_file", "others may read it too"]);
    // As good as one token where other machines reach the API.
    let daemon = with_tokens(Setup::new(), TOKENS).add("bind_management", "0.0.0.0:0").start();
    of(&daemon, "alice").get("/hostname/");
}

/// The client's own commands, with the token of an operator.
#[test]
fn the_client_of_an_operator_spins_flips_and_restarts() {
    let served = Backend::new().serve_text("x");
    let setup = with_tokens(Setup::new(), TOKENS).rule("a.com", served.rule());
    let daemon = setup.start();
    let socket = daemon.management[0].trim_start_matches("unix:").to_owned();
    let run = |arguments: &[&str], name: &str| {
        let token = format!("{name}-0123456789");
        let options = ["--socket", &socket];
        Call::new(&[&options[..], arguments].concat()).env("MANTRID_TOKEN", &token).finish()
    };
    for arguments in [
        &["spin", "a.com", "--timeout", "9"][..],
        &["flip", "a.com"],
        &["restart", "a.com", "--", "true"],
        &["list"],
        &["stats"],
    ] {
        run(arguments, "bob").expect(0, &[]);
    }
    assert_eq!(of(&daemon, "bob").get("/hostname/a.com/"), served.rule());
    run(&["delete", "a.com"], "bob").expect(1, &["the role operate may"]);
    run(&["spin", "a.com", "--wake", "http://10.6.6.6/"], "bob").expect(1, &["the role operate"]);
    run(&["spin", "a.com"], "rita").expect(1, &["the role read may change nothing"]);
    run(&["get", "a.com"], "view").expect(1, &["the token is for hosts under shop.example"]);
}

/// The node that is asked checks the request; the others see the token that it was shown.
#[test]
fn node_of_a_fleet_that_is_asked_checks_the_token() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let node = |name: &str| {
        let own = format!("127.0.0.1:{}", closed_port());
        with_tokens(node(name, &etcd.urls()), TOKENS).add("bind_management", own).start()
    };
    let [a, b] = ["a", "b"].map(node);
    let [mut alice, mut other] = [&a, &b].map(|daemon| of(daemon, "alice"));
    let both = |value: &Value| value["nodes"].as_object().is_some_and(|nodes| nodes.len() == 2);
    eventually("both know each other", || {
        both(&alice.get("/fleet/")) && both(&other.get("/fleet/"))
    });
    let rules = json!({"shop.example": empty(404), "a.com": empty(403)});
    alice.tell("PATCH", "/hostname/?wait=fleet", &rules).expect_status(200);
    let mut shop = of(&b, "shop");
    assert_eq!(names(&shop.get("/hostname/")), ["shop.example"]);
    shop.tell("PUT", "/hostname/a.com/", &empty(404)).expect_error(403, "a.com:outside_suffix");
    shop.tell("PATCH", "/hostname/", &json!({"shop.example": empty(405), "a.com": null}))
        .expect_error(403, "a.com:outside_suffix");
    let mut bob = of(&a, "bob");
    bob.tell("PUT", "/hostname/a.com/", &empty(405)).expect_error(403, "a.com:role_insufficient");
    let mut events = Events::over(of(&a, "rita"), "?only=change");
    events.expect("hello");
    shop.put("/hostname/shop.example/", &empty(405));
    assert_eq!(events.expect("change")["who"], "b: shop");
    for (daemon, who) in [(&a, "b: shop"), (&b, "shop")] {
        daemon.expect_log(&[&format!("audit who={who} "), "shop.example"]);
        let mut client = daemon.connect();
        for host in ["shop.example", "a.com"] {
            client.exchange(get(host, "/"));
        }
        of(daemon, "alice").counted("a.com", 1);
    }
    let answer = shop.ask("GET", "/stats/?fleet=1").expect_status(200);
    assert_eq!(answer.head.field("Mantrid-Fleet-Nodes"), Some("2"));
    assert_eq!(names(&answer.json()), ["shop.example"]);
    assert_eq!(answer.json()["shop.example"]["completed_requests"], 2);
}
