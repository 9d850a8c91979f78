//! `GET /openapi.json`: description of the API in OpenAPI 3.1. It is made from the list of routes
//! and the table below, which has a row for each path and method. The reference for people is
//! `docs/api.md`.

use std::sync::LazyLock;

use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::route::{Query, ROUTES};
use super::{json_response, ranking};
use crate::table::Action;

pub(super) fn answer(parts: &Parts) -> Result<Response, ApiError> {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{}\n", document()));
    Query::of(parts.uri.query(), &[])?;
    Ok(json_response(TEXT.as_str()))
}

/// One method of one path.
struct Operation {
    path: &'static str,
    method: &'static str,
    /// Name of the operation in programs made from the description.
    id: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    /// Schema of the request's body.
    body: Option<&'static str>,
    content: AnswerContent,
}

/// Content of the response 200.
#[derive(Copy, Clone)]
enum AnswerContent {
    /// JSON of this schema.
    Json(&'static str),
    /// Text of this media type.
    Text(&'static str),
}

use AnswerContent::{Json, Text};

const fn get(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    content: AnswerContent,
) -> Operation {
    Operation { path, method: "GET", id, summary, query, body: None, content }
}

const fn change(
    (method, path): (&'static str, &'static str),
    id: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    body: Option<&'static str>,
) -> Operation {
    Operation { path, method, id, summary, query, body, content: Json("Changed") }
}

const CHANGE: &[&str] = &["dry_run", "wait", "timeout"];

/// Every operation except HEAD, which each GET implies.
#[rustfmt::skip]
const OPERATIONS: &[Operation] = &[
    get("/hostname/", "listRules", "All rules, or those that match, by name",
        &["search", "action", "filter", "after", "limit", "sort", "named_hosts"],
        Json("RulesOrNull")),
    change(("PUT", "/hostname/"), "replaceRules", "Replaces the whole table", CHANGE,
        Some("Rules")),
    change(("PATCH", "/hostname/"), "changeRules",
        "Sets the rules that are named; null deletes one", CHANGE, Some("Changes")),
    get("/hostname/{host}/", "getRule", "The rule of a host, or null", &[], Json("RuleOrNull")),
    change(("PUT", "/hostname/{host}/"), "setRule", "Sets the rule of a host", CHANGE,
        Some("Rule")),
    change(("DELETE", "/hostname/{host}/"), "deleteRule", "Deletes the rule of a host", CHANGE,
        None),
    get("/held/", "listHeld", "Held requests, those that have waited longest first",
        &["one_host", "limit"], Json("HeldRequests")),
    get("/changes/", "listChanges", "The last changes of rules, the newest first",
        &["one_host", "limit"], Json("ListOfChanges")),
    get("/history/", "getHistory", "The last hour of all hosts, of one, or of a backend",
        &["one_host", "backend", "events"], Json("History")),
    get("/which/{host}", "explainHost", "The rule of a request for a host, and what would happen to it",
        &["scheme", "source", "body"], Json("Explained")),
    get("/which/", "hasSite", "The same for a TLS terminator: 404 where no site has the name",
        &["domain", "scheme"], Json("Explained")),
    get("/stats/", "listCounters", "Counters of all hosts, or of some",
        &["busiest", "fleet", "sort", "limit", "search", "action", "filter", "named_hosts"],
        Json("CountersOfAll")),
    get("/stats/{host}/", "getCounters", "Counters of a host; {} without a request so far",
        &["fleet"], Json("Counters")),
    get("/backends/", "listBackends", "State and counters of backends, by address", &["address"],
        Json("Backends")),
    get("/fleet/", "getFleet", "The fleet that the daemon is a node of, or null", &[],
        Json("FleetOrNull")),
    change(("POST", "/fleet/init"), "initFleet", "Makes the fleet's store anew from this table",
        &[], None),
    change(("POST", "/fleet/join"), "joinFleet", "Takes the fleet's table", &[], None),
    change(("POST", "/fleet/leave"), "leaveFleet", "Makes a single node of this one", &[], None),
    get("/events", "followEvents", "Events as they happen, as server-sent events",
        &["host", "busiest", "only"], Text("text/event-stream")),
    get("/metrics", "getMetrics", "Metrics for Prometheus, also as OpenMetrics", &[],
        Text("text/plain")),
    get("/healthz", "isAlive", "Liveness: whether a restart would help", &[], Json("Health")),
    get("/readyz", "isReady", "Readiness: whether this daemon should get clients", &[],
        Json("Ready")),
    get("/openapi.json", "getDescription", "This description", &[], Json("Description")),
    get("/support", "getFacts", "Facts for people who help: version, configuration, log lines", &[],
        Json("Facts")),
    get("/", "getDashboard", "The dashboard", &[], Text("text/html")),
];

/// Describes an argument of a query: name, meaning, schema.
fn parameter(name: &str) -> Value {
    let (meaning, schema) = match name {
        "dry_run" => ("Check the change and do not make it", json!({ "type": "boolean" })),
        "wait" => (
            "Answer once removed backends are drained (of one rule), or all nodes have the change",
            json!({ "type": "string", "enum": ["drained", "fleet"] }),
        ),
        "timeout" => (
            "How long to wait at most: 500ms, 30s, 5m, 1h, or seconds",
            json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)?$" }),
        ),
        "search" => ("Text in the name, in any case", json!({ "type": "string" })),
        "action" => {
            let names: Vec<&str> = Action::names().collect();
            ("Action of the rule", json!({ "type": "string", "enum": names }))
        }
        "after" => ("Names behind this one", json!({ "type": "string" })),
        "limit" => ("The first of them", json!({ "type": "integer", "minimum": 0 })),
        "busiest" => (
            "The hosts with the most requests",
            json!({ "type": "integer", "minimum": 0, "maximum": crate::limits::BUSIEST_MAX }),
        ),
        "fleet" => ("Add the counters of the other nodes", json!({ "type": "boolean" })),
        "one_host" => ("A host, for what is about its rule alone", json!({ "type": "string" })),
        "backend" => ("A backend, for what is about it alone", json!({ "type": "string" })),
        "events" => ("How many of the last events", json!({ "type": "integer", "minimum": 0 })),
        "sort" => {
            let names: Vec<&str> = ranking::sorts().collect();
            ("The order, most first", json!({ "type": "string", "enum": names }))
        }
        "filter" => {
            let names: Vec<&str> = ranking::filters().collect();
            ("Hosts that something is wrong with", json!({ "type": "string", "enum": names }))
        }
        "host" => ("Hosts whose counters are in each `traffic`", hosts()),
        "named_hosts" => ("These hosts, and no other argument that selects", hosts()),
        "scheme" => (
            "Scheme of the request",
            json!({ "type": "string", "enum": ["http", "https", "tcp", "tls"] }),
        ),
        "source" => ("Address of the client", json!({ "type": "string" })),
        "body" => (
            "Bytes of the request's body",
            json!({ "type": "integer", "minimum": 0, "maximum": crate::limits::RULE_BODY_MAX }),
        ),
        "domain" => ("The host", json!({ "type": "string" })),
        "address" => (
            "These backends, whatever is known of them",
            json!({ "type": "array", "items": { "type": "string" } }),
        ),
        "only" => ("Kinds of events, with commas", json!({ "type": "string" })),
        _ => ("", json!({})),
    };
    // The argument `host` has two forms: it may be given several times, or only once.
    let name = if matches!(name, "one_host" | "named_hosts") { "host" } else { name };
    let mut parameter =
        json!({ "name": name, "in": "query", "description": meaning, "schema": schema });
    if name == "domain" {
        parameter["required"] = json!(true);
    }
    parameter
}

/// Schema of several hosts, each in an argument of its own.
fn hosts() -> Value {
    let most = crate::limits::NAMED_HOSTS_MAX;
    json!({ "type": "array", "items": { "type": "string" }, "maxItems": most })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// Makes the description.
fn document() -> Value {
    let mut paths = Map::new();
    for (path, _) in ROUTES {
        let mut methods = Map::new();
        if path.contains("{host}") {
            let host = json!({
                "name": "host",
                "in": "path",
                "required": true,
                "description": "A host name, percent-encoded; with http://, https://, tcp:// or tls:// in \
                                front for the rule of one scheme",
                "schema": { "type": "string" },
            });
            methods.insert("parameters".to_owned(), json!([host]));
        }
        for operation in OPERATIONS.iter().filter(|operation| operation.path == *path) {
            methods.insert(operation.method.to_ascii_lowercase(), operation.describe(false));
            if operation.method == "GET" {
                methods.insert("head".to_owned(), operation.describe(true));
            }
        }
        paths.insert((*path).to_owned(), Value::Object(methods));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mantrid management API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "BSD-3-Clause", "identifier": "BSD-3-Clause" },
        },
        "servers": [{ "url": "/" }],
        // `{}` because requests need no token if the daemon has none.
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

impl Operation {
    fn describe(&self, is_head: bool) -> Value {
        let id = match is_head {
            true => format!("head{}{}", self.id[..1].to_ascii_uppercase(), &self.id[1..]),
            false => self.id.to_owned(),
        };
        let mut described = json!({ "operationId": id, "summary": self.summary });
        let mut parameters: Vec<Value> = self.query.iter().map(|name| parameter(name)).collect();
        if self.query.contains(&"dry_run") {
            parameters.push(json!({
                "name": "If-Match",
                "in": "header",
                "description": "ETags of which the table must have one",
                "schema": { "type": "string" },
            }));
        }
        if !parameters.is_empty() {
            described["parameters"] = json!(parameters);
        }
        if let Some(schema) = self.body {
            let content = json!({ "application/json": { "schema": reference(schema) } });
            described["requestBody"] = json!({ "required": true, "content": content });
        }
        if self.path == "/" {
            described["security"] = json!([{}]);
        }
        described["responses"] = self.answers(is_head);
        described
    }

    fn answers(&self, is_head: bool) -> Value {
        let content = match self.content {
            Json(schema) => json!({ "application/json": { "schema": reference(schema) } }),
            Text("text/plain") => json!({
                "text/plain": { "schema": { "type": "string" } },
                "application/openmetrics-text": { "schema": { "type": "string" } },
            }),
            Text(media) => json!({ media: { "schema": { "type": "string" } } }),
        };
        let mut good = json!({ "description": "Done" });
        if !is_head {
            good["content"] = content;
        }
        let mut answers = Map::from_iter([("200".to_owned(), good)]);
        for (status, meaning) in self.errors() {
            let mut answer = json!({ "description": meaning });
            if !is_head {
                let schema =
                    if self.path == "/readyz" && *status == 503 { "Ready" } else { "Error" };
                answer["content"] = json!({ "application/json": { "schema": reference(schema) } });
            }
            answers.insert(status.to_string(), answer);
        }
        Value::Object(answers)
    }

    fn errors(&self) -> impl Iterator<Item = &'static (u16, &'static str)> {
        let of_all: &[(u16, &str)] = &[
            (400, "The request makes no sense: `error` says in which way"),
            (401, "A token is needed, or it is not the right one"),
            (403, "The token is not for this, or the request seems to come from another page"),
        ];
        let of_changes: &[(u16, &str)] = &[
            (409, "The daemon is in no fleet"),
            (412, "The table is not the one of If-Match"),
            (413, "The body is too large"),
            (415, "The content type is that of a form"),
            (
                503,
                "Too much is asked at this moment, the daemon stops, or the fleet is out of reach",
            ),
            (507, "The change could not be written to disk"),
        ];
        let of_reads: &[(u16, &str)] = &[(503, "Too much is asked at this moment, or not ready")];
        let of_sites: &[(u16, &str)] = &[(404, "No rule serves this name")];
        let more = if self.method == "GET" { of_reads } else { of_changes };
        let sites = if self.path == "/which/" { of_sites } else { &[] };
        of_all.iter().chain(more).chain(sites)
    }
}

/// Schemas of bodies and responses. The names of actions come from the table of rules.
fn schemas() -> Value {
    let mut schemas: Value = serde_json::from_str(include_str!("schemas.json")).unwrap_or_default();
    let actions: Vec<&str> = Action::names().collect();
    schemas["Rule"]["prefixItems"][0]["enum"] = json!(actions);
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_is_described_with_its_methods() {
        for (path, methods) in ROUTES {
            let of_path = OPERATIONS.iter().filter(|operation| operation.path == *path);
            let described: Vec<&str> = of_path
                .flat_map(|operation| match operation.method {
                    "GET" => vec!["GET", "HEAD"],
                    other => vec![other],
                })
                .collect();
            assert_eq!(described.join(", "), *methods, "{path}");
        }
        let is_route =
            |operation: &Operation| ROUTES.iter().any(|(path, _)| *path == operation.path);
        assert!(OPERATIONS.iter().all(is_route));
    }

    #[test]
    fn each_argument_and_each_schema_is_there() {
        let document = document();
        let text = document.to_string();
        for name in OPERATIONS.iter().flat_map(|operation| operation.query) {
            assert_ne!(parameter(name)["description"], "", "{name}");
        }
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(!document["components"]["schemas"][name].is_null(), "{name}");
        }
        let mut ids: Vec<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), OPERATIONS.len());
    }
}
