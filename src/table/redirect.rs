//! Refuses edits that make redirects to something that is not the address of a web server, or in a
//! circle. Only edits are checked: tables of the original may hold such redirects, and still load.
//!
//! A circle is certain only if each of its requests meets a rule of this table. A request for a
//! name that has a rule of its own does. A request for a name that only falls under the rule of a
//! parent may be served by another machine. So may an https request for a name whose rule is for
//! both schemes: the TLS terminator need not pass it on to us. So a redirect from `a.com` to
//! `https://a.com` is accepted, and from `http://a.com` to `https://a.com` is what most redirects
//! do.

use super::Snapshot;
use super::arguments::digits;
use super::edit_error::EditError;
use super::host;
use super::rule::{Action, Redirect, Rule};
use super::trie::Change;
use crate::limits::{ALIAS_CHAIN_MAX, REDIRECTS_FOLLOWED_MAX};
use crate::scheme::Scheme;

/// Checks the redirects among these changes, and those that aliases among them lead to.
pub(super) fn check(new: &Snapshot, changes: &[Change<'_, Rule>]) -> Result<(), EditError> {
    for change in changes {
        let Some(rule) = &change.value else { continue };
        if let Some(redirect) = redirect_of(rule)
            && Server::of(redirect.to()).is_none()
        {
            let (host, to) = (change.name.to_owned(), redirect.to().to_owned());
            return Err(EditError::RedirectTarget { host, to });
        }
        if matches!(rule.action, Action::Redirect(_) | Action::Alias(_)) {
            follow(new, change.name)?;
        }
    }
    Ok(())
}

/// The redirect of a rule. For a spin, it is the redirect of the rule that stood before and comes
/// back.
fn redirect_of(rule: &Rule) -> Option<&Redirect> {
    match &rule.action {
        Action::Redirect(redirect) => Some(redirect),
        Action::Spin(spin) => redirect_of(spin.then()?),
        _ => None,
    }
}

/// Follows redirects as a client would.
fn follow(table: &Snapshot, start: &str) -> Result<(), EditError> {
    let (scheme, _) = host::split(start);
    let mut is_https = match scheme {
        None | Some(Scheme::Http) => false,
        Some(Scheme::Https) => true,
        // Raw connections are not redirected.
        Some(_) => return Ok(()),
    };
    let mut name = start.to_owned();
    let mut passed: Vec<&str> = Vec::new();
    while passed.len() < REDIRECTS_FOLLOWED_MAX {
        let Some((end, redirect)) = end_of(table, &name) else { return Ok(()) };
        if passed.contains(&end) {
            let (host, to) = (start.to_owned(), redirect.to().to_owned());
            return Err(EditError::RedirectLoop { host, to });
        }
        passed.push(end);
        let Some(place) = Server::of(redirect.to()) else { return Ok(()) };
        let was_https = is_https;
        is_https = place.is_https.unwrap_or(is_https);
        let Ok(host) = host::name(place.host) else { return Ok(()) };
        if place.port.is_some_and(|port| port != if is_https { 443 } else { 80 }) {
            return Ok(());
        }
        let own = format!("{}{host}", if is_https { "https://" } else { "http://" });
        name = if table.get(&own).is_some() {
            own
        } else if is_https && !was_https {
            return Ok(());
        } else {
            host.into_owned()
        };
    }
    Ok(())
}

/// The redirect that a name leads to, directly or through aliases, and the name of its rule.
fn end_of<'t>(table: &'t Snapshot, name: &str) -> Option<(&'t str, &'t Redirect)> {
    let mut place = table.entry(name)?;
    // No longer than `check_aliases` lets a chain be.
    for _ in 0..=ALIAS_CHAIN_MAX {
        let (name, rule) = place;
        match (&rule.action, rule.alias_target()) {
            (Action::Redirect(redirect), _) => return Some((name, redirect)),
            (_, Some(target)) => place = table.entry(target)?,
            _ => return None,
        }
    }
    None
}

/// Server that a redirect leads to.
#[derive(PartialEq, Eq, Debug)]
struct Server<'a> {
    /// `None`: the scheme of the request.
    is_https: Option<bool>,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Server<'a> {
    /// Reads the target of a redirect; `None`: it is no address that a browser could be sent to.
    fn of(to: &'a str) -> Option<Server<'a>> {
        let (is_https, rest) = match to.split_once("://") {
            // A `://` in a path or a query does not end a scheme.
            Some((before, _)) if before.contains(['/', '?', '#']) => (None, to),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(true), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(false), rest),
            Some(_) => return None,
            None => (None, to),
        };
        let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        // `mailto:me@a.com` does not name a user with a password.
        if is_https.is_none() && user.contains(':') {
            return None;
        }
        let bracketed = host.find(']').map(|end| end + 1);
        let (host, port) = match bracketed {
            Some(end) => (&host[..end], &host[end..]),
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            // `javascript:` and similar schemes are refused here, too.
            Some(port) => Some(digits(port)?),
        };
        (!host.is_empty()).then_some(Server { is_https, host, port })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::{Names, edit};

    /// Code of the error with which the last of these redirects or aliases is refused, if it is.
    fn code(rules: &[(&str, &str)]) -> Option<&'static str> {
        let mut table = Snapshot::default();
        let mut names = Names::default();
        let mut outcome = None;
        for (name, to) in rules {
            let rule = match to.strip_prefix("alias ") {
                Some(target) => json!(["alias", {"hostname": target}, true]),
                None => json!(["redirect", {"redirect_to": to}, true]),
            };
            let rule = Rule::from_json(name, &rule, &mut names).expect("a rule");
            assert_eq!(outcome, None, "{rules:?}: before the last");
            match edit(&table, vec![((*name).to_owned(), Some(rule))]) {
                Ok(new) => table = new,
                Err(error) => outcome = Some(error.code()),
            }
        }
        outcome
    }

    #[test]
    fn a_redirect_to_itself_is_refused() {
        for rules in [
            &[("a.com", "a.com")][..],
            &[("a.com", "A.COM.")],
            &[("a.com", "http://a.com")],
            &[("a.com", "http://a.com:80/x")],
            &[("a.com", "HTTP://user@a.com/new/?x=y")],
            &[("http://a.com", "a.com")],
            &[("http://a.com", "http://a.com/")],
            &[("https://a.com", "https://a.com:443")],
            &[("https://a.com", "a.com")],
            &[("[::1]", "http://[::1]:80/")],
            &[("bücher.example", "xn--bcher-kva.example")],
            // by way of others
            &[("a.com", "b.com"), ("b.com", "a.com")],
            &[("a.com", "b.com"), ("b.com", "c.com"), ("c.com", "http://a.com/x")],
            &[("http://a.com", "https://a.com"), ("https://a.com", "http://a.com")],
            &[("b.com", "a.com"), ("a.com", "alias b.com")],
        ] {
            assert_eq!(code(rules), Some("redirect_loop"), "{rules:?}");
        }
    }

    #[test]
    fn redirects_that_may_lead_elsewhere_are_let_through() {
        for rules in [
            &[("a.com", "b.com")][..],
            &[("a.com", "https://a.com")],
            &[("http://a.com", "https://a.com")],
            &[("https://a.com", "http://a.com")],
            &[("a.com", "a.com:8443")],
            &[("a.com", "http://a.com:443")],
            &[("a.com", "www.a.com")],
            &[("www.a.com", "a.com")],
            &[("a.com", "b.com/?to=http://a.com")],
            &[("http://a.com", "https://b.com"), ("a.com", "http://a.com")],
            &[("a.com", "https://a.com"), ("https://a.com", "b.com")],
        ] {
            assert_eq!(code(rules), None, "{rules:?}");
        }
    }

    #[test]
    fn only_web_addresses_are_redirected_to() {
        for to in [
            "ftp://a.com",
            "javascript://a.com/%0aalert(1)",
            "javascript:alert(1)",
            "data:text/html,x",
            "mailto:me@a.com",
            "http:a.com",
            "http://",
            "https:///x",
            "http://:80",
            "b.com:port",
            "b.com:",
            "b.com:65536",
            "[::1]8080",
        ] {
            assert_eq!(code(&[("a.com", to)]), Some("host_kwarg_invalid:redirect_to"), "{to}");
        }
        for to in ["b.com", "b.com:8080/x", "HTTPS://b.com", "http://[::1]:8080", "b.com/a://b"] {
            assert_eq!(code(&[("a.com", to)]), None, "{to}");
        }
    }
}
