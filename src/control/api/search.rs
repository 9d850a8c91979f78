//! Search for hosts: by a part of the name (also in Unicode), by the address of a backend, by
//! action, or by a URL as it is copied from a browser.

use std::cell::RefCell;
use std::fmt::Write as _;

use memchr::memmem::Finder;

use crate::address::Address;
use crate::table::{Action, Match, Rule, Scheme, Snapshot, Target, host};

/// Text to search for, in every form in which it may occur.
#[derive(Debug)]
pub(super) struct Search {
    /// Text in lower case. If it is empty, everything matches.
    text: String,
    finder: Finder<'static>,
    /// The text as A-labels, if that is another text.
    a_label: Option<Finder<'static>>,
    is_unicode: bool,
    /// Whether the text may be a part of an IP address with a port.
    is_numeric: bool,
    /// Names of the rules that requests for the URL match.
    led_to: Vec<String>,
    /// Buffer for the text of a backend, reused for the next one.
    room: RefCell<String>,
}

impl Search {
    pub(super) fn of(text: &str, table: &Snapshot) -> Search {
        let text = text.trim().to_lowercase();
        match host_of_url(&text) {
            Some((schemes, host)) => {
                let led_to = schemes.iter().filter_map(|scheme| rule_for(table, &host, *scheme));
                Search { led_to: led_to.collect(), ..Search::for_text(host) }
            }
            None => Search::for_text(text),
        }
    }

    fn for_text(text: String) -> Search {
        let a_label = host::rule_name(&text).ok().filter(|name| *name != text);
        let is_numeric = text
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'[' | b']'));
        Search {
            finder: Finder::new(&text).into_owned(),
            a_label: a_label.map(|name| Finder::new(&name).into_owned()),
            is_unicode: !text.is_ascii(),
            is_numeric,
            led_to: Vec::new(),
            room: RefCell::default(),
            text,
        }
    }

    pub(super) fn is_everything(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether the search finds a host. The rule is `None` for the host `unknown`.
    pub(super) fn matches(&self, name: &str, rule: Option<&Rule>) -> bool {
        self.is_everything()
            || self.matches_name(name)
            || rule
                .is_some_and(|rule| rule.action.as_str() == self.text || self.matches_backend(rule))
    }

    fn matches_name(&self, name: &str) -> bool {
        let has = |finder: &Finder<'_>| finder.find(name.as_bytes()).is_some();
        has(&self.finder)
            || self.a_label.as_ref().is_some_and(has)
            || self.led_to.iter().any(|led_to| led_to == name)
            || (self.is_unicode && name.contains("xn--") && self.is_in_unicode(name))
    }

    /// Whether the name in Unicode contains the text, which may be a part of a label.
    fn is_in_unicode(&self, name: &str) -> bool {
        let (name, _) = idna::domain_to_unicode(host::split(name).1);
        self.finder.find(name.as_bytes()).is_some()
    }

    fn matches_backend(&self, rule: &Rule) -> bool {
        let proxy = match &rule.action {
            Action::Proxy(proxy) => proxy,
            Action::Spin(spin) => {
                return spin.then().is_some_and(|then| self.matches_backend(then));
            }
            _ => return false,
        };
        let mut room = self.room.borrow_mut();
        proxy.all_backends().any(|backend| {
            let is_ip = matches!(backend.target(), Target::Address(at) if at.ip().is_some());
            if is_ip && !self.is_numeric {
                return false;
            }
            room.clear();
            // Writing to a String can't fail.
            let _ = write!(room, "{backend}");
            // The path of a socket may have upper-case letters, and the text is in lower case.
            room.make_ascii_lowercase();
            self.finder.find(room.as_bytes()).is_some()
        })
    }
}

/// Schemes and host of a URL, which may lack its scheme. `None`: the text is not a URL.
fn host_of_url(text: &str) -> Option<(Vec<Scheme>, String)> {
    let (schemes, rest) = match text.split_once("://") {
        Some(("http" | "ws", rest)) => (vec![Scheme::Http], rest),
        Some(("https" | "wss", rest)) => (vec![Scheme::Https], rest),
        Some(("tcp", rest)) => (vec![Scheme::Tcp], rest),
        Some(("tls", rest)) => (vec![Scheme::Tls], rest),
        Some((_, rest)) => (vec![Scheme::Http, Scheme::Https], rest),
        // A path without a host is that of a socket.
        None if text.starts_with(['/', '@'])
            || text.starts_with(Address::UNIX)
            || !text.contains(['/', '?', '#']) =>
        {
            return None;
        }
        None => (vec![Scheme::Http, Scheme::Https], text),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.find(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host::rule_name(host).ok()?;
    Some((schemes, host))
}

fn rule_for(table: &Snapshot, host: &str, scheme: Scheme) -> Option<String> {
    match table.lookup(host, scheme) {
        Match::Found(found) => Some(found.name().to_owned()),
        Match::NoHosts | Match::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::{Names, edit};

    fn table() -> Snapshot {
        let mut names = Names::default();
        let rules = [
            ("shop.example", json!(["proxy", {"backends": [["10.0.0.1", 8000]]}, true])),
            ("https://shop.example", json!(["empty", {"code": 403}, false])),
            ("xn--bcher-kva.example", json!(["proxy", {"backends": ["app.internal:80"]}, false])),
            (
                "held.example",
                json!(["spin", {"then": ["proxy", {"backends": [["::1", 9]]}, true]}, true]),
            ),
            ("spin.example", json!(["empty", {"code": 404}, false])),
            (
                "spare.example",
                json!(["proxy", {"backends": ["unix:/run/App.sock"], "backup": ["10.0.0.2:9"]}, true]),
            ),
        ];
        let rules = rules.into_iter().map(|(name, rule)| {
            let rule = Rule::from_json(name, &rule, &mut names).expect("a rule");
            (name.to_owned(), Some(rule))
        });
        edit(&Snapshot::default(), rules.collect()).expect("a table")
    }

    #[track_caller]
    fn expect(text: &str, expected: &[&str]) {
        let table = table();
        let search = Search::of(text, &table);
        let found = table.iter().filter(|(name, rule)| search.matches(name, Some(rule)));
        let mut found: Vec<&str> = found.map(|(name, _)| name).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn name_is_found_by_a_part_in_any_case() {
        let both = ["https://shop.example", "shop.example"];
        expect("SHOP.", &both);
        expect("  shop.example\n", &both);
        expect("nowhere", &[]);
        assert!(Search::of("", &table()).is_everything());
        assert!(Search::of("know", &table()).matches("unknown", None));
    }

    #[test]
    fn name_is_found_as_people_write_it() {
        for text in ["bücher.example", "büch", "Bücher", "xn--bcher", "http://bücher.example/x"]
        {
            expect(text, &["xn--bcher-kva.example"]);
        }
    }

    #[test]
    fn rule_is_found_by_backend_and_by_action() {
        expect("10.0.0.1:8000", &["shop.example"]);
        expect("10.0.0.", &["shop.example", "spare.example"]);
        expect(":8000", &["shop.example"]);
        expect("app.internal", &["xn--bcher-kva.example"]);
        expect("[::1]:9", &["held.example"]);
        expect("spin", &["held.example", "spin.example"]);
        expect("proxy", &["shop.example", "spare.example", "xn--bcher-kva.example"]);
        expect("10.0.0.2:9", &["spare.example"]);
        for text in ["unix:/run/App.sock", "unix:", "/run/app.sock", "app.sock"] {
            expect(text, &["spare.example"]);
        }
    }

    #[test]
    fn url_leads_to_the_rule_that_its_requests_fall_under() {
        expect("http://www.shop.example:8080/cart?x=1#y", &["shop.example"]);
        expect("http://user:word@www.shop.example/", &["shop.example"]);
        expect("www.shop.example/cart", &["shop.example"]);
        expect("https://shop.example/", &["https://shop.example", "shop.example"]);
        expect("https://nobody.example/", &[]);
        expect("http://[::1]:9/", &["held.example"]);
    }
}
