//! Tests of reading tokens, of the hosts under a suffix, and of the changes that each role may
//! make.

use serde_json::{Value, json};

use super::*;
use crate::table::{Names, edit};

fn tokens(text: &str) -> Tokens {
    Tokens::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"))
}

fn grant(line: &str) -> Grant {
    let tokens = tokens(line);
    Grant::clone(&tokens.listed[0].1)
}

#[test]
fn tokens_are_found_with_their_rights() {
    let tokens = tokens(
        "# who\n\n alice admin a-1 # on call\nbob\toperate b#2\nshop  read c-3 Shop.Example.\n\
         alice admin a-4\n",
    );
    for (token, name, role, suffix) in [
        ("a-1", "alice", Role::Admin, None),
        ("b#2", "bob", Role::Operate, None),
        ("c-3", "shop", Role::Read, Some("shop.example")),
        ("a-4", "alice", Role::Admin, None),
    ] {
        let found = tokens.find(token.as_bytes()).expect(token);
        let rights = (found.name(), found.role(), found.suffix());
        assert_eq!(rights, (Some(name), role, suffix), "{token}");
    }
    for other in ["", "a", "a-", "a-11", "alice", "A-1", "c-3 shop.example"] {
        assert_eq!(tokens.find(other.as_bytes()), None, "{other}");
    }
    let both = tokens.with_single(Token::parse("one")).expect("another token");
    assert_eq!(*both.find(b"one").expect("the single one"), Grant::EVERYTHING);
    assert!(both.find(b"b#2").is_some());
    assert!(both.clone().with_single(Token::parse("a-1")).is_err(), "it is listed");
    let again = self::tokens(&both.to_text());
    assert_eq!(again.to_text(), both.to_text());
    assert_eq!(again.find(b"c-3"), both.find(b"c-3"));
}

#[test]
fn wrong_lines_are_named_without_their_words() {
    for (text, line, problem) in [
        ("", 0, "no token"),
        ("# none\n", 0, "no token"),
        ("alice admin", 1, "NAME ROLE TOKEN [SUFFIX], found 2 words"),
        ("# x\nalice admin s3cret a.example more", 2, "found 5 words"),
        ("alice s3cret admin", 1, "role is none of read, operate, admin"),
        ("alice Admin s3cret", 1, "role is none of"),
        ("al:ice admin s3cret", 1, "name may hold"),
        ("alice admin s3cr\u{e9}t", 1, "not ASCII"),
        ("alice admin s3cret s3cret..x", 1, "its suffix: the host name has an empty label"),
        ("alice admin s3cret *.a.example", 1, "wildcards"),
        ("a admin s3cret\n\nb read s3cret", 3, "that of line 1"),
        ("a admin s3cret\na read s3cret-2", 2, "line 1 gives this name another role"),
        ("a admin s3cret\na admin s3cret-2 a.example", 2, "line 1 gives this name another role"),
    ] {
        let wrong = Tokens::parse(text).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert_eq!(wrong.line, line, "{text}: {wrong:?}");
        assert!(wrong.problem.contains(problem), "{text}: {wrong:?}");
        assert!(!wrong.problem.contains("s3cret"), "a token is told: {wrong:?}");
    }
    let long = format!("{} admin s3cret", "a".repeat(limits::TOKEN_NAME_BYTES_MAX + 1));
    assert!(Tokens::parse(&long).is_err());
    let line = |at: usize| format!("n{at} read token-{at}\n");
    let many: String = (0..limits::TOKENS_MAX).map(line).collect();
    assert!(Tokens::parse(&many).is_ok());
    let more = Tokens::parse(&format!("{many}x read y"));
    assert!(more.is_err_and(|wrong| wrong.line == limits::TOKENS_MAX + 1));
}

#[test]
fn a_suffix_is_itself_and_the_names_below() {
    let grant = grant("a admin t shop.example");
    for own in [
        "shop.example",
        "www.shop.example",
        "a.b.shop.example",
        "http://shop.example",
        "tls://x.shop.example",
    ] {
        assert!(grant.covers(own), "{own}");
        assert_eq!(grant.check_host(own), Ok(()));
    }
    for other in
        ["example", "myshop.example", "shop.example.com", "http://myshop.example", "", "unknown"]
    {
        assert!(!grant.covers(other), "{other}");
        let error = grant.check_host(other).expect_err(other);
        assert_eq!((error.host.as_deref(), error.code), (Some(other), OUTSIDE));
    }
    assert!(Grant::EVERYTHING.covers("anything"));
}

fn rule(value: &Value) -> Rule {
    Rule::from_json("a", value, &mut Names::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether a grant allows a change of `a` from one rule to another; `null` is no rule.
fn allows(grant: &Grant, before: &Value, after: &Value) -> bool {
    let some = |value: &Value| (!value.is_null()).then(|| rule(value));
    let table = edit(&Snapshot::default(), vec![("a".to_owned(), some(before))]).expect("a table");
    grant.check_edits(&[("a".to_owned(), some(after))], false, &table).is_ok()
}

#[test]
fn operators_spin_flip_and_drain() {
    let operate = grant("o operate t");
    let proxy = json!(["proxy", {"backends": ["10.0.0.1:80", "10.0.0.2:80"]}, true]);
    let drained =
        json!(["proxy", {"backends": ["10.0.0.1:80", "10.0.0.2:80"], "weights": [0, 1]}, true]);
    let spun = json!(["spin", {"then": proxy}, true]);
    let slow = json!(["spin", {"then": proxy, "timeout": 5, "max_held": 3}, true]);
    let calling =
        json!(["proxy", {"backends": ["10.0.0.1:80"], "wake": "http://w/", "idle": 5}, true]);
    for (before, after) in [
        (&proxy, &proxy),
        (&proxy, &drained),
        (&drained, &proxy),
        (&proxy, &spun),
        (&proxy, &slow),
        (&spun, &slow),
        (&slow, &proxy),
        (&spun, &drained),
        (&calling, &json!(["spin", {"then": calling, "wake": "http://w/"}, true])),
        (
            &json!(["empty", {"code": 404}, false]),
            &json!(["spin", {"then": ["empty", {"code": 404}, false]}, false]),
        ),
        (&Value::Null, &Value::Null),
    ] {
        assert!(allows(&operate, before, after), "{before} -> {after}");
    }
    // The lists of clients are not among the limits of a `spin`: those of the rule from before must
    // stay.
    let closed = json!(["proxy", {"backends": ["10.0.0.1:80"], "deny": ["10.0.0.0/8"]}, true]);
    let open = json!(["spin", {"then": closed, "allow": ["0.0.0.0/0"]}, true]);
    let same = json!(["spin", {"then": closed, "deny": ["10.0.0.0/8"]}, true]);
    let held = json!(["spin", {"then": closed}, true]);
    for (before, after) in [(&closed, &held), (&closed, &same), (&open, &closed)] {
        assert!(allows(&operate, before, after), "{before} -> {after}");
    }
    for (before, after) in [(&closed, &open), (&held, &open), (&open, &held)] {
        assert!(!allows(&operate, before, after), "{before} -> {after}");
    }
    let other = json!(["proxy", {"backends": ["10.0.0.1:80", "10.6.6.6:80"]}, true]);
    for (before, after) in [
        (&Value::Null, &proxy),
        (&proxy, &Value::Null),
        (&proxy, &other),
        (&proxy, &json!(["proxy", {"backends": ["10.0.0.1:80"]}, true])),
        (&proxy, &json!(["proxy", {"backends": ["10.0.0.1:80", "10.0.0.2:80"]}, false])),
        (
            &proxy,
            &json!(["proxy", {"backends": ["10.0.0.1:80", "10.0.0.2:80"], "attempts": 3}, true]),
        ),
        // A flip back to this `then` would put another rule in force than the one from before.
        (&proxy, &json!(["spin", {"then": other}, true])),
        (&proxy, &json!(["spin", {}, true])),
        (&proxy, &json!(["spin", {"then": proxy}, false])),
        (&proxy, &json!(["spin", {"then": proxy, "wake": "http://10.6.6.6/"}, true])),
        (&spun, &json!(["spin", {"then": other}, true])),
        (&spun, &json!(["spin", {}, true])),
        (&spun, &json!(["spin", {"then": proxy, "wake": "http://10.6.6.6/"}, true])),
        (&spun, &other),
        (&json!(["spin", {}, true]), &proxy),
        (&proxy, &json!(["empty", {"code": 503}, true])),
    ] {
        assert!(!allows(&operate, before, after), "{before} -> {after}");
        assert!(allows(&Grant::EVERYTHING, before, after));
        assert!(allows(&grant("a admin t"), before, after));
    }
    let read = grant("r read t");
    assert!(!allows(&read, &proxy, &proxy));
    assert_eq!(read.check_change(false).expect_err("a change").code, ROLE);
    assert_eq!(operate.check_change(true).expect_err("a table").code, ROLE);
    assert_eq!(operate.check_change(false), Ok(()));
}

#[test]
fn tenants_change_their_own_hosts_alone() {
    let tenant = grant("t admin x a.example");
    let edits = |names: &[&str], value: Value| -> Vec<(String, Option<Rule>)> {
        names.iter().map(|name| ((*name).to_owned(), Some(rule(&value)))).collect()
    };
    let check = |edits: &[(String, Option<Rule>)], whole| {
        tenant.check_edits(edits, whole, &Snapshot::default())
    };
    let empty = json!(["empty", {"code": 404}, false]);
    assert_eq!(check(&edits(&["a.example", "http://b.a.example"], empty.clone()), false), Ok(()));
    let foreign = edits(&["a.example", "b.example"], empty.clone());
    let error = check(&foreign, false).expect_err("a host of others");
    assert_eq!((error.host.as_deref(), error.code), (Some("b.example"), OUTSIDE));
    let own = edits(&["a.example"], empty);
    assert_eq!(check(&own, true).expect_err("the whole table").code, OUTSIDE);
    // The target of an alias cannot be deleted while the alias is there.
    let alias = edits(&["a.example"], json!(["alias", {"hostname": "b.example"}, false]));
    let error = check(&alias, false).expect_err("an alias of a host of others");
    assert_eq!((error.host.as_deref(), error.code), (Some("a.example"), OUTSIDE));
    let alias = json!(["spin", {"then": ["alias", {"hostname": "b.example"}, false]}, false]);
    let error = check(&edits(&["a.example"], alias), false).expect_err("it decides who is served");
    assert_eq!((error.host.as_deref(), error.code), (Some("a.example"), OUTSIDE));
    let alias = edits(&["a.example"], json!(["alias", {"hostname": "x.a.example"}, false]));
    assert_eq!(check(&alias, false), Ok(()));
    assert_eq!(tenant.check_daemon().expect_err("for all").code, OUTSIDE);
    assert_eq!(grant("a admin x").check_daemon(), Ok(()));
    assert_eq!(grant("a operate x").check_daemon().expect_err("for admins").code, ROLE);
}
