//! Checks that accepted arguments take effect, and that an error names the argument it refuses.

use std::time::Duration;

use super::*;

fn read(value: &Value) -> Result<Rule, RuleError> {
    Rule::from_json("a.com", value, &mut Names::default())
}

fn proxy(arguments: Value) -> Proxy {
    match read(&json!(["proxy", arguments, true])).map(|rule| rule.action) {
        Ok(Action::Proxy(proxy)) => proxy,
        other => panic!("{arguments}: {other:?}"),
    }
}

fn printed(proxy: &Proxy) -> Vec<String> {
    proxy.backends().iter().map(ToString::to_string).collect()
}

#[test]
fn backends_in_every_spelling() {
    for (backends, expected) in [
        (json!([["10.0.0.1", 80]]), "10.0.0.1:80"),
        (json!([["10.0.0.1", "80"]]), "10.0.0.1:80"),
        (json!([["10.0.0.1", 80.0]]), "10.0.0.1:80"),
        (json!(["10.0.0.1:80"]), "10.0.0.1:80"),
        (json!("10.0.0.1:80"), "10.0.0.1:80"),
        (json!([{"__backend__": ["10.0.0.1", 80]}]), "10.0.0.1:80"),
        (json!([["::1", 80]]), "[::1]:80"),
        (json!([["[::1]", 80]]), "[::1]:80"),
        (json!(["[::1]:80"]), "[::1]:80"),
        (json!([["App.Internal.", 80]]), "app.internal:80"),
        (json!(["my_app:80"]), "my_app:80"),
        (json!(["b\u{fc}cher.example:80"]), "xn--bcher-kva.example:80"),
        (json!(["10.0.0.1:80", ["localhost", 81]]), "10.0.0.1:80 localhost:81"),
        (json!("10.0.0.1:80,[::1]:81, app:82"), "10.0.0.1:80 [::1]:81 app:82"),
        (json!(["unix:/run/a,b.sock"]), "unix:/run/a,b.sock"),
        (json!("unix:/run/a.sock, unix:@b,app:82"), "unix:/run/a.sock unix:@b app:82"),
        (json!([{"__backend__": "unix:@b"}]), "unix:@b"),
    ] {
        assert_eq!(printed(&proxy(json!({"backends": backends}))).join(" "), expected);
    }
}

#[test]
fn defaults_are_those_of_the_manual() {
    let plain = proxy(json!({"backends": "a:1"}));
    assert_eq!((plain.attempts(), plain.delay()), (1, Duration::from_secs(1)));
    assert_eq!((plain.algorithm(), plain.healthcheck()), (Algorithm::Random, true));
    assert_eq!((plain.max_connections(), plain.max_requests_per_second()), (None, None));
    assert_eq!((plain.check(), plain.hold(), plain.idle()), (None, Duration::ZERO, None));
    assert_eq!(plain.backends()[0].weight(), 1);
    assert!(plain.options.is_none());
    let spin = Spin::default();
    assert_eq!((spin.timeout(), spin.max_held()), (Duration::from_secs(120), None));
    assert_eq!((spin.release_rate(), spin.wake(), spin.idle()), (None, None, None));
    assert!(spin.then().is_none());
}

#[test]
fn defaults_of_the_table_are_those_in_force() {
    let in_force = |rule: &Rule| match &rule.action {
        Action::Proxy(proxy) => format!(
            "{} {:?} {:?} {} {} {:?} {:?} {:?}",
            proxy.attempts(),
            proxy.delay(),
            proxy.algorithm(),
            proxy.healthcheck(),
            proxy.keep_alive(),
            proxy.hold(),
            proxy.check().map(|check| check.parameters()),
            proxy.slow_start()
        ),
        Action::Spin(spin) => format!("{:?}", spin.timeout()),
        Action::Redirect(redirect) => redirect.code().to_string(),
        other => panic!("{other:?}"),
    };
    let mut count = 0;
    for row in rule_arguments::ACTIONS {
        let required = match row.name {
            "proxy" => json!({"backends": "a:1", "check": "/"}),
            "redirect" => json!({"redirect_to": "a.com"}),
            _ => json!({}),
        };
        let words = ["none", "no limit", "1 each", "`check_interval`"];
        let others =
            ["`host`, or the rule's name", "the key", "the client's", rule_arguments::REQUIRED];
        let words = [&words[..], &others].concat();
        for argument in row.arguments.iter().filter(|known| !words.contains(&known.default)) {
            let mut given = required.clone();
            given[argument.name] = json!(argument.default);
            let read = |arguments: &Value| read(&json!([row.name, arguments, true])).unwrap();
            assert_eq!(in_force(&read(&given)), in_force(&read(&required)), "{}", argument.name);
            count += 1;
        }
    }
    assert_eq!(count, 13);
}

#[test]
fn words_of_the_table_are_those_that_are_read() {
    for row in rule_arguments::ACTIONS {
        for argument in row.arguments {
            for word in argument.words() {
                let mut given = match row.name {
                    "proxy" => json!({"backends": "a:1"}),
                    "redirect" => json!({"redirect_to": "a.com"}),
                    _ => json!({}),
                };
                given[argument.name] = json!(word);
                let rule = read(&json!([row.name, given, true])).expect(word);
                let written = rule.to_json()[1][argument.name].to_string();
                assert_eq!(written.trim_matches('"'), *word);
            }
        }
    }
    assert!(ALGORITHMS.iter().map(|(name, _)| *name).eq(arguments_of("proxy", "algorithm")));
}

fn arguments_of(action: &str, name: &str) -> impl Iterator<Item = &'static str> {
    let row = rule_arguments::action(action).expect(action);
    let argument = row.arguments.iter().find(|argument| argument.name == name).expect(name);
    argument.words().iter().copied()
}

#[test]
fn large_numbers_may_be_floats() {
    for given in [json!(5e9), json!(5_000_000_000_u64), json!("5000000000")] {
        let rule = read(&json!(["proxy", {"backends": "a:1", "max_body": given}, true]));
        assert_eq!(rule.expect("a rule").to_json()[1]["max_body"], json!(5_000_000_000_u64));
    }
}

#[test]
fn strings_mean_the_same_as_numbers() {
    let numbers = json!({"backends": [["a", 1], ["b", 2]], "attempts": 3, "delay": 0.5,
        "algorithm": "source", "weights": [3, 0], "healthcheck": false, "max_connections": 10,
        "check": "/up", "max_requests_per_second": 5, "hold": 30, "idle": 600});
    let strings = json!({"backends": "a:1,b:2", "attempts": "3", "delay": "0.5",
        "algorithm": "source", "weights": "3,0", "healthcheck": "False", "max_connections": "10",
        "check": "/up", "max_requests_per_second": "5", "hold": "30", "idle": "600"});
    let proxy = proxy(strings);
    assert_eq!(proxy, self::proxy(numbers.clone()));
    assert_eq!(proxy.attempts(), 3);
    assert_eq!(proxy.delay(), Duration::from_millis(500));
    assert_eq!(proxy.algorithm(), Algorithm::Source);
    assert_eq!(proxy.backends().iter().map(Backend::weight).collect::<Vec<_>>(), [3, 0]);
    assert!(!proxy.healthcheck());
    assert_eq!(proxy.max_connections().map(NonZeroU32::get), Some(10));
    assert_eq!(proxy.check().and_then(|check| check.path()), Some("/up"));
    assert_eq!(proxy.max_requests_per_second().map(NonZeroU32::get), Some(5));
    assert_eq!(proxy.hold(), Duration::from_secs(30));
    assert_eq!(proxy.idle(), Some(Duration::from_secs(600)));
    // And it is written as it was given in numbers.
    let rule = Rule { action: Action::Proxy(proxy), match_subdomains: true };
    assert_eq!(rule.to_json(), json!(["proxy", numbers, true]));
}

#[test]
fn a_check_is_the_same_where_its_probes_are() {
    let check = |name: &str, arguments: Value| {
        let mut given = json!({"backends": "a:1", "check": "/up"});
        given.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
        let rule = Rule::from_json(name, &json!(["proxy", given, true]), &mut Names::default());
        rule.expect("a rule").check_id().expect("a check")
    };
    let plain = check("a.com", json!({}));
    for (name, arguments) in [
        ("A.com.", json!({})),
        ("https://a.com", json!({"attempts": 2})),
        ("a.com", json!({"check_status": "200-399", "check_interval": 2, "check_timeout": 2})),
        ("b.com", json!({"check_host": "a.com", "check_fall": 3, "check_rise": "2"})),
        ("b.com", json!({"host": "A.com"})),
        ("b.com", json!({"host": "backend", "check_host": "a.com"})),
    ] {
        assert_eq!(check(name, arguments.clone()), plain, "{name} {arguments}");
    }
    for (name, arguments) in [
        ("b.com", json!({})),
        ("a.com", json!({"check": "/other"})),
        ("a.com", json!({"check": "tcp"})),
        ("a.com", json!({"check_host": "a.com:80"})),
        ("a.com", json!({"host": "b.com"})),
        ("a.com", json!({"host": "backend"})),
        ("a.com", json!({"check_status": 200})),
        ("a.com", json!({"check_interval": 3, "check_timeout": 2})),
        ("a.com", json!({"check_timeout": 3})),
        ("a.com", json!({"check_fall": 2})),
        ("a.com", json!({"check_rise": 3})),
    ] {
        assert_ne!(check(name, arguments.clone()), plain, "{name} {arguments}");
    }
    // Names of backends may lead to one address: each rule asks there for its own.
    let by_backend = |name: &str| check(name, json!({"check_host": "backend"}));
    assert_ne!(by_backend("a.com"), by_backend("b.com"));
    assert_eq!(by_backend("a.com"), check("a.com", json!({"host": "backend"})));
    // A connection is the same for every rule.
    let tcp = check("a.com", json!({"check": "tcp"}));
    assert_eq!(check("b.com", json!({"check": "tcp", "check_status": 204})), tcp);
    let without = proxy(json!({"backends": "a:1", "check_interval": 1}));
    assert_eq!(without.check(), None, "no check, no probes");
}

/// An operator reads back what they set, defaults included.
#[test]
fn given_arguments_are_given_back() {
    for value in [
        json!(["spin", {}, false]),
        json!(["spin", {"timeout": 120, "check_interval": 1}, true]),
        json!(["proxy", {"backends": [["a", 1]], "attempts": 1, "delay": 1,
            "algorithm": "random", "healthcheck": true}, true]),
        json!(["proxy", {"backends": ["unix:/run/a.sock", ["a", 1], "unix:@b"],
            "weights": [1, 2, 3]}, true]),
        json!(["proxy", {"backends": [["a", 1]], "check": "tcp", "check_status": "200,300-302",
            "check_interval": 0.1, "check_timeout": 0.01, "check_fall": 3, "check_rise": 2}, true]),
        json!(["proxy", {"backends": [["a", 1]], "check_host": "b:80", "check_status": 204}, true]),
        json!(["proxy", {"backends": [["a", 1]], "check_status": [204, "300-302"]}, true]),
        json!(["proxy", {"backends": [["a", 1]], "weights": [0], "backup": [["b", 2]]}, true]),
        json!(["proxy", {"backends": [["a", 1]], "algorithm": "cookie:sid"}, true]),
        json!(["proxy", {"backends": [["a", 1]], "algorithm": "field:X-User"}, true]),
        json!(["redirect", {"redirect_to": "https://www.ep.io", "code": 302}, true]),
        json!(["static", {"type": "test"}, true]),
        json!(["empty", {"code": 402}, false]),
        json!(["alias", {"hostname": "http://a.com"}, false]),
        json!(["unknown", {}, true]),
        json!(["no_hosts", {}, true]),
    ] {
        assert_eq!(read(&value).map(|rule| rule.to_json()), Ok(value));
    }
}

#[test]
fn refusals_keep_the_original_codes() {
    for (value, code) in [
        (json!("proxy"), "host_details_not_list"),
        (json!({"proxy": []}), "host_details_not_list"),
        (json!(null), "host_details_not_list"),
        (json!([]), "host_details_wrong_length"),
        (json!(["spin", {}]), "host_details_wrong_length"),
        (json!(["spin", {}, true, 1]), "host_details_wrong_length"),
        (json!(["do-da-be-dee", {}, "bruce"]), "host_action_invalid:do-da-be-dee"),
        (json!(["mirror", {}, true]), "host_action_invalid:mirror"),
        (json!([7, {}, true]), "host_action_invalid:7"),
        (json!(["spin", [], true]), "host_kwargs_not_dict"),
        (json!(["spin", null, true]), "host_kwargs_not_dict"),
        (json!(["spin", {}, "bruce"]), "host_match_subdomains_not_bool"),
        (json!(["spin", {}, 1]), "host_match_subdomains_not_bool"),
    ] {
        let error = read(&value).unwrap_err();
        assert_eq!(error.code(), code);
        let text = error.to_string();
        assert!(text.starts_with(&format!("a.com:{code}: ")), "{text}");
        assert!(error.sentence().contains(' '), "{text}");
    }
}

#[test]
fn arguments_are_refused_by_name() {
    let proxy =
        |name: &str, value: Value| json!(["proxy", {"backends": "a:1,b:2", name: value}, true]);
    for (value, code) in [
        (json!(["proxy", {}, true]), "host_kwarg_missing:backends"),
        (json!(["static", {}, true]), "host_kwarg_missing:type"),
        (json!(["redirect", {"code": 301}, true]), "host_kwarg_missing:redirect_to"),
        (json!(["empty", {}, true]), "host_kwarg_missing:code"),
        (json!(["alias", {}, true]), "host_kwarg_missing:hostname"),
        (json!(["unknown", {"code": 1}, true]), "host_kwarg_unknown:code"),
        (json!(["spin", {"time_out": 1}, true]), "host_kwarg_unknown:time_out"),
        (proxy("backend", json!("a:1")), "host_kwarg_unknown:backend"),
        (proxy("attempts", json!(0)), "host_kwarg_invalid:attempts"),
        (proxy("attempts", json!(1.5)), "host_kwarg_invalid:attempts"),
        (proxy("attempts", json!(-1)), "host_kwarg_invalid:attempts"),
        (proxy("attempts", json!("three")), "host_kwarg_invalid:attempts"),
        (proxy("attempts", json!(null)), "host_kwarg_invalid:attempts"),
        (proxy("attempts", json!("+3")), "host_kwarg_invalid:attempts"),
        (proxy("max_body", json!(9007199254740992_u64)), "host_kwarg_invalid:max_body"),
        (proxy("max_body", json!(1e16)), "host_kwarg_invalid:max_body"),
        (proxy("backup", json!("a:+80")), "host_kwarg_invalid:backup"),
        (proxy("delay", json!(-0.5)), "host_kwarg_invalid:delay"),
        (proxy("delay", json!("inf")), "host_kwarg_invalid:delay"),
        (proxy("delay", json!("nan")), "host_kwarg_invalid:delay"),
        (proxy("delay", json!("5s")), "host_kwarg_invalid:delay"),
        (proxy("delay", json!(1e300)), "host_kwarg_invalid:delay"),
        (proxy("algorithm", json!("leastconn")), "host_kwarg_invalid:algorithm"),
        (proxy("algorithm", json!("cookie:")), "host_kwarg_invalid:algorithm"),
        (proxy("algorithm", json!("field:a b")), "host_kwarg_invalid:algorithm"),
        (proxy("algorithm", json!("header:a")), "host_kwarg_invalid:algorithm"),
        (proxy("weights", json!([1])), "host_kwarg_invalid:weights"),
        (proxy("backup", json!([])), "host_kwarg_invalid:backup"),
        (proxy("backup", json!("a")), "host_kwarg_invalid:backup"),
        (proxy("weights", json!([1, 65536])), "host_kwarg_invalid:weights"),
        (proxy("healthcheck", json!("maybe")), "host_kwarg_invalid:healthcheck"),
        (proxy("max_connections", json!(0)), "host_kwarg_invalid:max_connections"),
        (proxy("check", json!("http")), "host_kwarg_invalid:check"),
        (proxy("check", json!("/a b")), "host_kwarg_invalid:check"),
        (proxy("check", json!("/a\r\nX: y")), "host_kwarg_invalid:check"),
        (proxy("check_host", json!("a b")), "host_kwarg_invalid:check_host"),
        (proxy("check_host", json!("a:b")), "host_kwarg_invalid:check_host"),
        (proxy("check_status", json!("600")), "host_kwarg_invalid:check_status"),
        (proxy("check_status", json!("301-300")), "host_kwarg_invalid:check_status"),
        (proxy("check_status", json!([])), "host_kwarg_invalid:check_status"),
        (proxy("check_status", json!(["200-"])), "host_kwarg_invalid:check_status"),
        (proxy("check_status", json!(vec![200; 101])), "host_kwarg_invalid:check_status"),
        (proxy("check_interval", json!(0.05)), "host_kwarg_invalid:check_interval"),
        (proxy("check_timeout", json!(60.5)), "host_kwarg_invalid:check_timeout"),
        (proxy("check_fall", json!(0)), "host_kwarg_invalid:check_fall"),
        (proxy("check_rise", json!(1.5)), "host_kwarg_invalid:check_rise"),
        (json!(["spin", {"wake": "https://a/"}, true]), "host_kwarg_invalid:wake"),
        (json!(["spin", {"then": ["spin", {}, true]}, true]), "host_kwarg_invalid:then"),
        (json!(["spin", {"then": "proxy"}, true]), "host_kwarg_invalid:then"),
        (json!(["spin", {"then": ["proxy", {}, true]}, true]), "host_kwarg_invalid:then"),
        (json!(["proxy", {"backends": "a:1", "wake": "ftp://a"}, true]), "host_kwarg_invalid:wake"),
        (json!(["spin", {"wake": "http:///x"}, true]), "host_kwarg_invalid:wake"),
        (json!(["redirect", {"redirect_to": ""}, true]), "host_kwarg_invalid:redirect_to"),
        (json!(["redirect", {"redirect_to": "/x"}, true]), "host_kwarg_invalid:redirect_to"),
        (json!(["redirect", {"redirect_to": "a\r\nb"}, true]), "host_kwarg_invalid:redirect_to"),
        (json!(["redirect", {"redirect_to": "a", "code": 304}, true]), "host_kwarg_invalid:code"),
        (json!(["static", {"type": "../passwd"}, true]), "host_kwarg_invalid:type"),
        (json!(["static", {"type": "a/b"}, true]), "host_kwarg_invalid:type"),
        (json!(["static", {"type": ".hidden"}, true]), "host_kwarg_invalid:type"),
        (json!(["empty", {"code": 101}, true]), "host_kwarg_invalid:code"),
        (json!(["empty", {"code": 600}, true]), "host_kwarg_invalid:code"),
        (json!(["alias", {"hostname": "a b"}, true]), "host_kwarg_invalid:hostname"),
    ] {
        let error = read(&value).expect_err(&value.to_string());
        assert_eq!(error.code(), code);
        let (_, argument) = code.split_once(':').unwrap_or_default();
        assert!(error.sentence().contains(argument), "{error}");
    }
}

#[test]
fn backends_are_refused_with_the_reason() {
    for (backends, reason) in [
        (json!([]), "at least one"),
        (json!({}), "expected a list"),
        (json!(""), "no port"),
        (json!(["a"]), "no port"),
        (json!(["a:0"]), "port"),
        (json!(["a:65536"]), "port"),
        (json!([["a", 0]]), "port"),
        (json!([["a"]]), "not host and port"),
        (json!([["a", 1, 2]]), "not host and port"),
        (json!([[1, "a"]]), "not host and port"),
        (json!([null]), "not host and port"),
        (json!([{"backend": ["a", 1]}]), "not host and port"),
        (json!(["::1:80"]), "brackets"),
        (json!(["[::1]:0"]), "port 0"),
        (json!([["[a]", 80]]), "brackets"),
        (json!(["10.0.0.256:80"]), "neither"),
        (json!(["a b:80"]), "may hold"),
        (json!(["a..b:80"]), "empty label"),
        (json!(["unix:run/a.sock"]), "unix:/path"),
        (json!(["unix:/run/"]), "name of the Unix socket"),
        (json!([format!("unix:/{}", "a".repeat(107))]), "at most 107 bytes"),
        (json!(["unix:/a\u{0}"]), "no NUL"),
        (json!([["unix:/run/a.sock", 80]]), "no port"),
        (json!(vec!["a:1"; BACKENDS_MAX + 1]), "at most 1024"),
    ] {
        let error = read(&json!(["proxy", {"backends": backends}, true])).unwrap_err();
        assert_eq!(error.code(), "host_kwarg_invalid:backends");
        assert!(error.sentence().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn names_of_backends_are_interned() {
    let mut names = Names::default();
    let value = json!(["proxy", {"backends": "app:1"}, true]);
    let mut rule = || Rule::from_json("a", &value, &mut names).unwrap();
    let (one, two) = (rule(), rule());
    let name = |rule: &Rule| match &rule.action {
        Action::Proxy(proxy) => match proxy.backends()[0].target() {
            Target::Name(name) => Arc::as_ptr(name),
            Target::Address(address) => panic!("{address}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(name(&one), name(&two));
}

#[test]
fn shown_values_are_bounded() {
    let long = "\u{e9}".repeat(10_000);
    for value in [json!([long, {}, true]), json!(["static", {"type": long}, true])] {
        assert!(read(&value).unwrap_err().to_string().len() < 500);
    }
    let mut arguments = Map::new();
    arguments.insert(long, json!(1));
    assert!(read(&json!(["spin", arguments, true])).unwrap_err().to_string().len() < 500);
}
