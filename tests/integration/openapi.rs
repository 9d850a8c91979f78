//! `/openapi.json` against the program that answers: each path and method of it is asked for, and
//! the answer is of a status, a type and a form that stand there; what does not stand there is 405.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::empty;
use crate::daemon::{Daemon, Setup};
use crate::message::{Answer, Head};
use crate::script::Connection;

/// Checks a value against a schema, as far as ours go: the paths of what is wrong.
fn wrong(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).expect(reference);
        return wrong(document, target, value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let is_one = any.iter().any(|one| wrong(document, one, value, at).is_empty());
        return if is_one { Vec::new() } else { vec![format!("{at}: none of anyOf: {value}")] };
    }
    let is_type = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("null") => value.is_null(),
        Some(other) => panic!("a type that the test does not know: {other}"),
    };
    let mut found = Vec::new();
    if !is_type {
        return vec![format!("{at}: {value} is no {}", schema["type"])];
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        found.push(format!("{at}: {value} is none of {known:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().expect("a name")).is_none() {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let (own, others) = (&schema["properties"][name], &schema["additionalProperties"]);
        let schema = if own.is_null() { others } else { own };
        if !schema.is_null() {
            found.extend(wrong(document, schema, member, &format!("{at}/{name}")));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        let (prefix, others) = (&schema["prefixItems"][index], &schema["items"]);
        let schema = if prefix.is_null() { others } else { prefix };
        if !schema.is_null() {
            found.extend(wrong(document, schema, item, &format!("{at}/{index}")));
        }
    }
    found
}

#[test]
fn checker_finds_answers_that_are_not_as_described() {
    let document = json!({"components": {"a": {"type": "integer"}}});
    let schema = json!({
        "type": "object",
        "required": ["b"],
        "properties": {"a": {"$ref": "#/components/a"}, "c": {"enum": ["x"]}},
        "additionalProperties": {"type": "array", "prefixItems": [{"type": "string"}]},
    });
    let good = json!({"a": 1, "b": ["x"], "c": "x"});
    assert_eq!(wrong(&document, &schema, &good, ""), [] as [String; 0]);
    for bad in [
        json!([]),
        json!({"a": 1}),
        json!({"a": "1", "b": []}),
        json!({"b": [1]}),
        json!({"b": [], "c": "y"}),
    ] {
        assert_eq!(wrong(&document, &schema, &bad, "").len(), 1, "{bad}");
    }
}

/// A value of the argument that makes sense, and what it needs beside it.
fn sample(name: &str) -> &'static str {
    match name {
        "dry_run" => "dry_run=true",
        "wait" => "wait=fleet",
        "timeout" => "timeout=1s&wait=fleet",
        "search" => "search=a",
        "action" => "action=proxy",
        "after" => "after=a",
        "limit" => "limit=1",
        "busiest" => "busiest=1",
        "fleet" => "fleet=true",
        "host" => "host=a.com",
        "only" => "only=change,traffic",
        "sort" => "sort=requests",
        "backend" => "backend=127.0.0.1:9",
        "events" => "events=1",
        "scheme" => "scheme=tls",
        "domain" => "domain=a.com",
        "source" => "source=127.0.0.1",
        "body" => "body=1",
        "filter" => "filter=failing",
        "address" => "address=127.0.0.1:9&address=localhost:9",
        _ => panic!("no sample of {name}"),
    }
}

fn body_for(schema: &str) -> Value {
    match schema.rsplit('/').next().unwrap_or_default() {
        "Rule" => empty(404),
        "Rules" => json!({"a.com": empty(404), "b.com": empty(405)}),
        "Changes" => json!({"b.com": empty(404), "gone.com": null}),
        _ => panic!("no body of {schema}"),
    }
}

struct Described {
    document: Value,
    daemon: Daemon,
}

impl Described {
    /// Asks, and takes no more than the head where the answer has no end.
    fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> (Head, Vec<u8>) {
        let api = self.daemon.api();
        let text = body.map(ToString::to_string).unwrap_or_default();
        let request = api.request(method, target, "", &text);
        let mut wire: Connection = api.wire;
        if method == "HEAD" || method == "GET" && target.starts_with("/events") {
            wire.send(request);
            let head = wire.expect_head();
            let has_body = method == "GET" && head.status() != 200;
            let length = head.field("Content-Length").filter(|_| has_body);
            let length = length.map_or(0, |length| length.parse().expect("a length"));
            let body = wire.read_exactly(length);
            return (head, body);
        }
        let Answer { head, body } = wire.exchange(request);
        (head, body)
    }

    /// The answer is one of those that are described.
    #[track_caller]
    fn check(&self, method: &str, path: &str, target: &str, body: Option<&Value>) -> u16 {
        let (head, bytes) = self.ask(&method.to_ascii_uppercase(), target, body);
        let responses = &self.document["paths"][path][method]["responses"];
        let described = &responses[head.status().to_string()];
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(
            !described.is_null(),
            "{method} {target}: {} is not described: {text}",
            head.status()
        );
        let Some(content) = described["content"].as_object() else {
            assert!(method == "head" && bytes.is_empty(), "{method} {target}: {text}");
            return head.status();
        };
        let media = head.field("Content-Type").unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default();
        let schema = content.get(media).unwrap_or_else(|| panic!("{method} {target}: {media}"));
        if media == "application/json" {
            let value: Value = serde_json::from_str(&text).expect("JSON");
            let found = wrong(&self.document, &schema["schema"], &value, "");
            assert!(found.is_empty(), "{method} {target}: {found:?} in {value}");
        }
        head.status()
    }

    fn check_operation(&self, path: &str, method: &str, operation: &Value) {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters: Vec<&Value> = parameters.filter(|it| it["in"] == "query").collect();
        let named = |is_required: bool| {
            let some = parameters.iter().filter(move |it| (it["required"] == true) == is_required);
            some.filter_map(|it| it["name"].as_str()).map(sample)
        };
        let required: Vec<&str> = named(true).collect();
        let target = format!("{}?{}", path.replace("{host}", "a.com"), required.join("&"));
        let schema =
            operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
        let body = schema.map(body_for);
        // Whatever the operation before did.
        self.daemon.api().put("/hostname/a.com/", &empty(404));
        let status = self.check(method, path, &target, body.as_ref());
        let expected = if path.starts_with("/fleet/") && method == "post" { 409 } else { 200 };
        assert_eq!(status, expected, "{method} {target}");
        for more in named(false) {
            let target = format!("{target}&{more}");
            assert_eq!(self.check(method, path, &target, body.as_ref()), 200, "{method} {target}");
        }
        if path != "/" {
            let target = format!("{target}&no_such=1");
            let status = self.check(method, path, &target, body.as_ref());
            assert_eq!(status, 400, "{method} {target}");
            self.check_arguments(method, &target, body.as_ref(), &parameters);
        }
    }

    /// The arguments that the refusal of an unknown one lists are those that are described.
    fn check_arguments(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
        described: &[&Value],
    ) {
        if method == "head" {
            return;
        }
        let (_, bytes) = self.ask(&method.to_ascii_uppercase(), target, body);
        let refusal: Value = serde_json::from_slice(&bytes).expect("JSON");
        let message = refusal["message"].as_str().expect("a message");
        let list = message.split_once("expected ").map_or("", |(_, list)| list);
        let known: BTreeSet<&str> = list.split(", ").filter(|name| !name.is_empty()).collect();
        let described = described.iter().filter_map(|it| it["name"].as_str()).collect();
        assert_eq!(known, described, "{method} {target}: {message}");
    }
}

#[test]
fn each_operation_answers_as_it_is_described() {
    let daemon = Setup::new().rule("a.com", empty(404)).start();
    let document = daemon.api().get("/openapi.json");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
    let described = Described { document, daemon };
    let paths = described.document["paths"].as_object().expect("paths").clone();
    let mut ids = BTreeSet::new();
    for (path, methods) in &paths {
        let methods = methods.as_object().expect("methods");
        let operations = methods.iter().filter(|(method, _)| *method != "parameters");
        for (method, operation) in operations {
            described.check_operation(path, method, operation);
            assert!(ids.insert(operation["operationId"].as_str().expect("an id").to_owned()));
        }
        let all = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS"];
        for method in all.iter().filter(|it| !methods.contains_key(&it.to_ascii_lowercase())) {
            let target = path.replace("{host}", "a.com");
            let (head, _) = described.ask(method, &target, None);
            assert_eq!(head.status(), 405, "{method} {path}");
            let allowed = head.field("Allow").unwrap_or_default();
            let allowed: BTreeSet<String> =
                allowed.split(", ").map(str::to_ascii_lowercase).collect();
            let known = methods.keys().filter(|method| *method != "parameters");
            assert_eq!(allowed, known.cloned().collect(), "{path}");
        }
    }
    assert!(20 < ids.len());
}

/// What the message about an unknown path lists is what is described.
#[test]
fn each_path_that_the_api_names_is_described() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let document = api.get("/openapi.json");
    let message = api.ask("GET", "/nowhere").expect_error(404, "not_found");
    let (_, list) = message.split_once("there are ").expect("a list");
    for path in list.split([',', ' ']).filter(|word| word.starts_with('/')) {
        let path = path.replace("HOST", "{host}");
        assert!(!document["paths"][&path].is_null(), "{path} is not described");
    }
}
