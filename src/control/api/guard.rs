//! Access to the API. If there are tokens, only a request with one of them is allowed. A browser
//! that acts for a page of another site never is. The module `grant` decides what a token allows.
//!
//! A page of evil.example can make a visitor's browser send requests to `localhost:8042`. The page
//! cannot read the responses (no CORS), but a write would take effect. So writes are refused if
//! they say that they come from another page, or if a plain form could have sent them. Requests are
//! also refused if the name in `Host` is not this machine's: DNS rebinding makes evil.example
//! resolve to 127.0.0.1, and then the page *can* read the responses.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};

use super::error::ApiError;
use crate::control::grant::{Grant, Tokens};

/// Client at the other end of a management connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    Tcp(std::net::SocketAddr),
    /// Unix socket, with the user's number according to the kernel.
    Unix(Option<u32>),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix(Some(uid)) => write!(f, "uid {uid}"),
            Peer::Unix(None) => f.write_str("unix"),
        }
    }
}

/// Value of a field, as text. Bytes that are not UTF-8 are replaced, so that such a value matches
/// none of ours and yet does not count as a missing field.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<Cow<'_, str>> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
}

fn forbidden(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, code, message)
}

/// Checks whether a request may be answered at all, and returns the rights of its token. An `open`
/// route needs no token.
pub(super) fn check(
    parts: &Parts,
    peer: &Peer,
    tokens: &Tokens,
    open: bool,
) -> Result<Arc<Grant>, ApiError> {
    let is_bare = !tokens.are_needed();
    // If tokens are needed, DNS rebinding gains nothing: the page behind the rebound name has no
    // token to send.
    if is_bare && matches!(peer, Peer::Tcp(_)) {
        host(parts)?;
    }
    let grant = match is_bare || open {
        true => Arc::new(Grant::EVERYTHING),
        false => authorized(&parts.headers, tokens)?,
    };
    match parts.method {
        Method::GET | Method::HEAD | Method::OPTIONS => {}
        _ => write(parts)?,
    }
    Ok(grant)
}

/// Checks that `Host` is an address or `localhost`. A client that sends no `Host` is not a browser,
/// and passes.
fn host(parts: &Parts) -> Result<(), ApiError> {
    let absolute = parts.uri.authority().map(|authority| Cow::from(authority.as_str()));
    let Some(host) = absolute.or_else(|| text(&parts.headers, header::HOST)) else { return Ok(()) };
    if host_of(&host).is_some_and(is_this_machine) {
        return Ok(());
    }
    Err(forbidden(
        "host_not_allowed",
        format!(
            "Host: {host}: without a token only an address or localhost is answered, so that no web \
             page can reach the API by a name of its own"
        ),
    ))
}

fn is_this_machine(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// Host of an authority, without port and brackets. `None`: the authority has more than host and
/// port. If it has a user, for example, the real host stands behind it
/// (`localhost:8042@evil.example`).
fn host_of(authority: &str) -> Option<&str> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = if rest.is_empty() { rest } else { rest.strip_prefix(':')? };
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host)
}

fn authorized(headers: &HeaderMap, tokens: &Tokens) -> Result<Arc<Grant>, ApiError> {
    if !headers.contains_key(header::AUTHORIZATION) {
        let message = "a token is needed: Authorization: Bearer TOKEN, as in management_token_file";
        return Err(ApiError::unauthorized("token_missing", message));
    }
    let grant = bearer(headers).and_then(|given| tokens.find(given));
    let wrong = || ApiError::unauthorized("token_wrong", "the token is not the right one");
    grant.ok_or_else(wrong)
}

/// Bearer token that a request carries.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let given = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = given.split_first_chunk::<7>()?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Refuses a write that another web page has sent, or that a form could have sent.
fn write(parts: &Parts) -> Result<(), ApiError> {
    let headers = &parts.headers;
    if let Some(origin) = headers.get(header::ORIGIN) {
        let host = headers.get(header::HOST).map(|host| host.as_bytes());
        let origin = origin.as_bytes();
        let authority = [&b"http://"[..], b"https://"]
            .into_iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        let is_own = authority
            .is_some_and(|authority| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)));
        if !is_own {
            let message =
                "Origin is another page than this API's own: pages of others may not write";
            return Err(forbidden("origin_foreign", message));
        }
    }
    if let Some(site) = headers.get("sec-fetch-site")
        && ![&b"same-origin"[..], b"none"].contains(&site.as_bytes())
    {
        let message =
            "Sec-Fetch-Site says that another page sends this: pages of others may not write";
        return Err(forbidden("cross_site", message));
    }
    let content = text(headers, header::CONTENT_TYPE).unwrap_or_default().into_owned();
    let content = content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let forms = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
    if forms.contains(&&*content) {
        let message = format!(
            "Content-Type: {content} is what a web form sends; expected application/json \
             (curl: --json, or -H 'Content-Type: application/json')"
        );
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type_form",
            message,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::control::grant::Token;

    fn parts(method: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/hostname/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn tcp() -> Peer {
        Peer::Tcp("127.0.0.1:1".parse().expect("an address"))
    }

    fn none() -> Tokens {
        Tokens::default()
    }

    fn code<T>(result: Result<T, ApiError>) -> String {
        result.err().map_or_else(String::new, |error| error.code)
    }

    #[test]
    fn only_this_machines_names_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:8042",
            "localhost.",
            "127.0.0.1:8042",
            "[::1]:8042",
            "[::1]",
            "localhost:",
            "192.0.2.1",
        ] {
            let request = parts("GET", &[("host", host)]);
            assert_eq!(code(check(&request, &tcp(), &none(), false)), "", "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8042",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:8042@evil.example",
            "127.0.0.1@evil.example",
            "[::1]:1@evil.example",
            "[::1]8042",
            "[::1",
            "localhost:80:80",
            "localhost:+1",
            "",
        ] {
            let request = parts("GET", &[("host", host)]);
            assert_eq!(code(check(&request, &tcp(), &none(), false)), "host_not_allowed", "{host}");
            assert_eq!(code(check(&request, &Peer::Unix(None), &none(), false)), "");
        }
        assert_eq!(code(check(&parts("GET", &[]), &tcp(), &none(), false)), "");
    }

    #[test]
    fn the_token_is_asked_for_where_there_is_one() {
        let token = Token::parse(" secret-1\n");
        let tokens = none().with_single(token).expect("one token");
        let with = |value: &str| {
            let request = parts("GET", &[("host", "lb.example"), ("authorization", value)]);
            code(check(&request, &tcp(), &tokens, false))
        };
        assert_eq!(with("Bearer secret-1"), "");
        assert_eq!(with("bearer secret-1"), "");
        for wrong in [
            "Bearer secret-",
            "Bearer secret-12",
            "Bearer ",
            "Basic secret-1",
            "secret-1",
            "Bearer",
        ] {
            assert_eq!(with(wrong), "token_wrong", "{wrong}");
        }
        let without = parts("GET", &[("host", "lb.example")]);
        let over_unix = Peer::Unix(Some(0));
        assert_eq!(code(check(&without, &over_unix, &tokens, false)), "token_missing");
        assert_eq!(code(check(&without, &tcp(), &tokens, true)), "");
        for none in ["", " \n", "two words", "umlaut-\u{e4}"] {
            assert!(Token::parse(none).is_none(), "{none:?}");
        }
    }

    #[test]
    fn pages_of_others_may_not_write() {
        let check = |fields: &[(&str, &str)]| {
            let mut all = vec![("host", "localhost:8042")];
            all.extend(fields);
            code(check(&parts("PUT", &all), &tcp(), &none(), false))
        };
        assert_eq!(check(&[]), "");
        assert_eq!(check(&[("origin", "http://localhost:8042")]), "");
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "http://localhost",
            "localhost:8042",
        ] {
            assert_eq!(check(&[("origin", origin)]), "origin_foreign", "{origin}");
        }
        assert_eq!(check(&[("sec-fetch-site", "same-origin")]), "");
        for site in ["cross-site", "same-site", "whatever"] {
            assert_eq!(check(&[("sec-fetch-site", site)]), "cross_site", "{site}");
        }
        assert_eq!(check(&[("content-type", "application/json; charset=utf-8")]), "");
        for form in ["text/plain", "TEXT/PLAIN;charset=x", "multipart/form-data; boundary=a"] {
            assert_eq!(check(&[("content-type", form)]), "content_type_form", "{form}");
        }
    }
}
