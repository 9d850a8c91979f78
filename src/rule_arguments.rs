//! The table of all arguments of rules. The parser and its error texts, the tables of
//! docs/rules.md, the form of the dashboard, and the help, checks and completions of
//! `mantrid-client` are made from it.
//!
//! Pure data. Values are read by `table`, which knows what an argument means.

use std::fmt;
use std::ops::RangeInclusive;

use crate::limits::{
    ATTEMPTS_MAX, CHECK_INTERVAL_SECONDS_MAX, CHECK_TIMEOUT_SECONDS_MAX, RULE_BODY_MAX,
    RULE_SECONDS_MAX,
};

#[cfg(test)]
mod form;

/// An action with its arguments.
pub struct ActionRow {
    /// Name in a rule.
    pub name: &'static str,
    /// Meaning of an action without arguments. The other actions are described by their arguments.
    pub meaning: &'static str,
    /// Arguments, in the order of the manual.
    pub arguments: &'static [Argument],
}

/// One argument of an action.
pub struct Argument {
    /// Name in a rule.
    pub name: &'static str,
    /// Values that are accepted.
    pub takes: Takes,
    /// Value that holds when none is given, or [`REQUIRED`].
    pub default: &'static str,
    /// Meaning, in the Markdown of docs/rules.md.
    pub meaning: &'static str,
    /// Whether the argument does nothing, and is accepted only for the sake of old tables.
    pub is_obsolete: bool,
}

/// Text in place of a default, for an argument that must be given.
pub const REQUIRED: &str = "must be given";

/// Values that an argument takes. Its text follows "expected" in an error.
pub enum Takes {
    /// `true` or `false`.
    Truth,
    /// Seconds, with fractions.
    Seconds,
    /// Seconds, with fractions, in a range of milliseconds.
    SecondsWithin(RangeInclusive<u64>),
    /// A whole number of 32 bits that is not 0.
    Count,
    /// A whole number in a range.
    Whole(RangeInclusive<u64>),
    /// A status of HTTP in a range.
    Status(RangeInclusive<u64>),
    /// One of some words.
    OneOf(&'static [&'static str]),
    /// One of some words, or a form that a text describes.
    OneOfOr(&'static [&'static str], &'static str),
    /// A form that a text describes.
    Form(&'static str),
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Takes::Truth => f.write_str("true or false"),
            Takes::Seconds => write!(f, "seconds: a number from 0 to {RULE_SECONDS_MAX}"),
            Takes::SecondsWithin(millis) => {
                let [least, most] = [*millis.start(), *millis.end()].map(|ms| ms as f64 / 1000.0);
                write!(f, "seconds: a number from {least} to {most}")
            }
            Takes::Count => write!(f, "a whole number from 1 to {}", u32::MAX),
            Takes::Whole(range) => {
                write!(f, "a whole number from {} to {}", range.start(), range.end())
            }
            Takes::Status(range) => write!(f, "a status from {} to {}", range.start(), range.end()),
            Takes::OneOf([first @ .., last]) => write!(f, "{} or {last}", first.join(", ")),
            Takes::OneOfOr(words, other) => write!(f, "{}, {other}", words.join(", ")),
            Takes::OneOf([]) => f.write_str("nothing"),
            Takes::Form(text) => f.write_str(text),
        }
    }
}

impl Argument {
    /// Whether the argument must be given.
    pub fn is_required(&self) -> bool {
        self.default == REQUIRED
    }

    /// The beginning of the meaning, in plain text.
    pub fn summary(&self) -> String {
        let ends = [", [", ": [", "; ", ". "].iter().filter_map(|end| self.meaning.find(end));
        let end = ends.min().unwrap_or(self.meaning.len());
        let mut text = self.meaning[..end].replace('`', "");
        // A link in Markdown: its text alone.
        while let (Some(open), Some(close)) = (text.find('['), text.find("](")) {
            let Some(length) = text[close..].find(')') else { break };
            text.replace_range(close..=close + length, "");
            text.remove(open);
        }
        text
    }

    /// The words that may be its value, where they are few.
    pub fn words(&self) -> &'static [&'static str] {
        match self.takes {
            Takes::Truth => &["true", "false"],
            Takes::OneOf(words) | Takes::OneOfOr(words, _) => words,
            _ => &[],
        }
    }
}

/// The action of this name.
pub fn action(name: &str) -> Option<&'static ActionRow> {
    ACTIONS.iter().find(|action| action.name == name)
}

const fn argument(
    name: &'static str,
    takes: Takes,
    default: &'static str,
    meaning: &'static str,
) -> Argument {
    Argument { name, takes, default, meaning, is_obsolete: false }
}

const fn row(
    name: &'static str,
    meaning: &'static str,
    arguments: &'static [Argument],
) -> ActionRow {
    ActionRow { name, meaning, arguments }
}

/// Backends of any form.
const BACKENDS: Takes = Takes::Form(
    "a list of backends, each [host, port], \"host:port\", \"[IPv6 address]:port\" or \
     \"unix:/path\"",
);

/// Networks of clients that are served.
const ALLOW: Argument = argument(
    "allow",
    NETWORKS,
    "none",
    "serve clients in these networks alone; others get 403, [here](#who-is-served)",
);

/// Networks of clients that are not served.
const DENY: Argument =
    argument("deny", NETWORKS, "none", "clients in these networks get 403, [here](#who-is-served)");

const NETWORKS: Takes =
    Takes::Form("a list of networks, each 192.0.2.0/24, 2001:db8::/32 or one address");

/// URL that gets a POST.
const WAKE: Takes = Takes::Form("an address that starts with http://");

/// Every action, in the order of messages.
pub const ACTIONS: &[ActionRow] = &[
    row("proxy", "", PROXY),
    row("spin", "", SPIN),
    row("redirect", "", REDIRECT),
    row("static", "", STATIC),
    row("empty", "", EMPTY),
    row("alias", "", ALIAS),
    row("unknown", "the page `unknown`: for a name that should not fall to its parent", &[]),
    row("no_hosts", "the page `no-hosts`", &[]),
];

const PROXY: &[Argument] = &[
    argument(
        "backends",
        BACKENDS,
        REQUIRED,
        "backends that requests go to, 1 to 1024; one string with commas will do. \
         `[\"2001:db8::1\", 80]` needs no brackets for IPv6. An application on this machine may \
         also listen on a [Unix socket](#unix-sockets). Names are looked up in the background: \
         each 30 s, and at once if none of a name's addresses can be reached. If a lookup fails, \
         the last good addresses stay. If a name has several addresses, each request gets one by \
         chance; if that address refuses, or does not accept within 250 ms, the others are tried \
         in parallel (RFC 8305), within the same attempt",
    ),
    argument(
        "backup",
        BACKENDS,
        "none",
        "backends that requests go to while none of `backends` is usable, each with weight 1, \
         [below](#backup-backends)",
    ),
    argument(
        "attempts",
        Takes::Whole(1..=ATTEMPTS_MAX as u64),
        "1",
        "connections tried for one request; each goes to a backend not tried before, while \
         there is one",
    ),
    argument("delay", Takes::Seconds, "1", "the pause before another attempt"),
    argument(
        "algorithm",
        Takes::OneOfOr(
            &["random", "round_robin", "least_connections", "source"],
            "cookie:NAME or field:NAME",
        ),
        "random",
        "how the next backend is chosen, [below](#load-balancing)",
    ),
    argument(
        "weights",
        Takes::Form("a list of whole numbers from 0 to 65535, one for each backend"),
        "1 each",
        "shares of the requests. A backend with 0 is drained: it gets no new ones, and finishes \
         what it has. If all are 0 the `backup` ones are used, and without those the reply is 503",
    ),
    argument(
        "healthcheck",
        Takes::Truth,
        "true",
        "pass over backends that fail requests, [below](#when-backends-fail)",
    ),
    argument(
        "max_connections",
        Takes::Count,
        "no limit",
        "most connections to each backend, of all shards together, idle ones too. Further \
         requests wait in line, for `timeout_connect`; then 503",
    ),
    argument(
        "max_open_requests",
        Takes::Count,
        "no limit",
        "most requests and raw connections of this rule that are open at its backends, of all \
         backends and shards together. Further ones wait in line, for `timeout_connect`; then 503",
    ),
    argument(
        "check",
        Takes::Form("tcp, or a path that starts with /"),
        "none",
        "probe the backends all the time, for this rule, [below](#when-backends-fail). Without it \
         the other arguments of checks do nothing",
    ),
    argument(
        "check_host",
        Takes::Form("a host, with or without a port, or backend"),
        "`host`, or the rule's name",
        "`Host` of the probes; `backend`: the name and port of the backend. Rules with the same \
         backend and the same `check` share its probes if this is the same, too, and not `backend`",
    ),
    argument(
        "check_status",
        Takes::Form("statuses and ranges of statuses, from 100 to 599, as \"200-299,404\""),
        "200-399",
        "statuses by which a probe succeeds; a list will do, too",
    ),
    argument(
        "check_interval",
        Takes::SecondsWithin(100..=CHECK_INTERVAL_SECONDS_MAX * 1000),
        "2",
        "the pause between two probes of an address; a quarter of this while the state is about to \
         change, otherwise half of this while the backend is down, but at least 0.1 s",
    ),
    argument(
        "check_timeout",
        Takes::SecondsWithin(10..=CHECK_TIMEOUT_SECONDS_MAX * 1000),
        "`check_interval`",
        "how long a probe may take, with its connection; by default up to 60",
    ),
    argument(
        "check_fall",
        Takes::Whole(1..=1000),
        "3",
        "probes in a row that must fail for the backend to go down; if the very first probe fails, \
         that one is enough",
    ),
    argument(
        "check_rise",
        Takes::Whole(1..=1000),
        "2",
        "probes in a row that must succeed for the backend to come back",
    ),
    argument(
        "slow_start",
        Takes::Seconds,
        "0",
        "time in which the weight of a backend grows from a tenth to all of it after it came back \
         or was added, [below](#slow-start)",
    ),
    argument(
        "max_requests_per_second",
        Takes::Count,
        "none",
        "more requests get 429 with `Retry-After`, [here](#rate-limit)",
    ),
    argument(
        "max_requests_per_second_per_source",
        Takes::Count,
        "none",
        "more requests of one client address get 429, [here](#rate-limit); of IPv6 one network \
         of 64 bits counts as one address",
    ),
    argument(
        "hold",
        Takes::Seconds,
        "0",
        "while no backend can be reached, hold requests for so long, and pass them on as soon \
         as one can: [holding.md](holding.md#restart-without-telling-mantrid-hold)",
    ),
    argument(
        "idle",
        Takes::Seconds,
        "none",
        "time without an open request or tunnel after which `wake` gets a POST",
    ),
    argument("wake", WAKE, "none", "address that gets a POST when the rule is idle"),
    argument(
        "send_proxy",
        Takes::OneOf(&["v1", "v2"]),
        "none",
        "begin each connection to a backend with a header of the [PROXY \
         protocol](tcp-and-tls.md#client-addresses-the-proxy-protocol). Such connections are one \
         client's, so each request opens one; probes of `check` send no header",
    ),
    argument(
        "keep_alive",
        Takes::Truth,
        "true",
        "keep connections to backends for the next request, \
         [below](#keep-alive-to-backends); `false`: each request opens one and says \
         `Connection: close`, for applications that serve one connection at a time",
    ),
    argument(
        "timeout_connect",
        TIMEOUT,
        "the key",
        "timeout for a connection to a backend, and for the wait in line for one, in place of the \
         key [`timeout_connect`](configuration.md#timeout_connect)",
    ),
    argument(
        "timeout_server",
        TIMEOUT,
        "the key",
        "timeout for a silent backend, in place of the key \
         [`timeout_server`](configuration.md#timeout_server)",
    ),
    argument(
        "timeout_tunnel",
        TIMEOUT,
        "the key",
        "timeout for a silent tunnel or raw connection, in place of the key \
         [`timeout_tunnel`](configuration.md#timeout_tunnel)",
    ),
    argument(
        "max_body",
        MAX_BODY,
        "no limit",
        "longest request body in bytes; past it the client gets 413, [below](#large-bodies)",
    ),
    argument(
        "host",
        Takes::Form("a host, with or without a port, or backend"),
        "the client's",
        "`Host` that backends get, [below](#host-and-fields); `backend`: the name and port of the \
         backend",
    ),
    argument(
        "set_request",
        FIELDS,
        "none",
        "fields that are set or removed in requests, [below](#host-and-fields)",
    ),
    SET_RESPONSE,
    OWN_PAGES,
    ALLOW,
    DENY,
];

/// Name of a page, and of a rule's pages.
const PAGE_NAME: Takes =
    Takes::Form("the name of a page: letters, digits, '-', '_' and '.', but no '.' in front");
const OWN_PAGES: Argument = argument(
    "pages",
    PAGE_NAME,
    "none",
    "pages of this rule, `NAME.502.http` and so on, which take precedence over the pages of all \
     hosts, [here](#pages-of-a-rule)",
);

/// Changes of fields.
const SET_RESPONSE: Argument = argument(
    "set_response",
    FIELDS,
    "none",
    "fields that are set or removed in responses, [here](#host-and-fields)",
);
const FIELDS: Takes = Takes::Form(
    "an object of up to 8 fields, {\"Name\": \"value\"}, in which null removes a field",
);

/// A timeout of a rule, in place of that of a key.
const TIMEOUT: Takes = Takes::SecondsWithin(1..=RULE_SECONDS_MAX * 1000);
/// Bytes of a request body.
const MAX_BODY: Takes = Takes::Whole(1..=RULE_BODY_MAX);

const SPIN: &[Argument] = &[
    argument(
        "timeout",
        Takes::Seconds,
        "120",
        "how long a request waits at most; then it gets the page `timeout`",
    ),
    Argument {
        is_obsolete: true,
        ..argument(
            "check_interval",
            Takes::Seconds,
            "none",
            "nothing: the original polled its table at this interval, which is no longer needed",
        )
    },
    argument(
        "max_held",
        Takes::Count,
        "none",
        "most requests held for this rule; one more gets the page `timeout` at once. The keys \
         `max_held` and `max_held_per_source` bound the held requests of all rules and of one \
         client address",
    ),
    argument(
        "release_rate",
        Takes::Count,
        "none",
        "requests that go on per second after a change to `proxy`; requests that come \
         meanwhile wait behind them. Without it up to 16,000 do",
    ),
    argument("wake", WAKE, "none", "address that gets a POST when requests begin to wait"),
    argument(
        "idle",
        Takes::Seconds,
        "none",
        "time without requests after which `wake` gets a POST as well",
    ),
    argument(
        "then",
        Takes::Form("a rule that is not spin"),
        "none",
        "the rule that stood before, which `mantrid-client flip` puts back. Until then its `allow` \
         and `deny`, `pages` and `max_body` apply where `spin` has none of its own",
    ),
    argument(
        "max_body",
        MAX_BODY,
        "no limit",
        "a request whose `Content-Length` is larger gets 413, and is not held",
    ),
    OWN_PAGES,
    ALLOW,
    DENY,
];

const REDIRECT: &[Argument] = &[
    argument(
        "redirect_to",
        Takes::Form("a host name or an address, in printable ASCII without spaces"),
        REQUIRED,
        "`Location`: this host, or address with `://` (at most 2048 bytes), one `/`, then \
         path and query of the request; no body. Without `://` it has the scheme of the \
         request",
    ),
    argument("code", Takes::OneOf(&["301", "302", "303", "307", "308"]), "302", "this status"),
    SET_RESPONSE,
    OWN_PAGES,
    ALLOW,
    DENY,
];

const STATIC: &[Argument] = &[
    argument(
        "type",
        PAGE_NAME,
        REQUIRED,
        "the [page](#pages) of this name (at most 100 bytes). A name without a page is \
         accepted, as the page may come later: 500 until then",
    ),
    SET_RESPONSE,
    OWN_PAGES,
    ALLOW,
    DENY,
];

const EMPTY: &[Argument] = &[
    argument("code", Takes::Status(200..=599), REQUIRED, "this status, no body"),
    SET_RESPONSE,
    OWN_PAGES,
    ALLOW,
    DENY,
];

const ALIAS: &[Argument] = &[argument(
    "hostname",
    Takes::Form("the name of another rule"),
    REQUIRED,
    "the reply or response that this rule leads to at each moment",
)];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A table of docs/rules.md: one row for each argument.
    fn table(head: &str, actions: &[&str]) -> String {
        let has_actions = head.starts_with("| action");
        let mut out = format!("{head}\n|{}\n", " --- |".repeat(head.matches(" |").count()));
        for name in actions {
            let row = action(name).expect("an action");
            let mut first = has_actions.then(|| format!("| `{name}` "));
            if row.arguments.is_empty() {
                let first = first.take().unwrap_or_default();
                out += &format!("{first}| none | | | {} |\n", row.meaning);
            }
            for Argument { name, takes, default, meaning, .. } in row.arguments {
                let first = match has_actions {
                    true => first.replace("| ".to_owned()).unwrap_or_default(),
                    false => String::new(),
                };
                out += &format!("{first}| `{name}` | {takes} | {default} | {meaning} |\n");
            }
        }
        out
    }

    /// `MANTRID_BLESS=1 cargo test` writes the tables.
    #[test]
    fn manual_has_the_tables_of_arguments() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules.md");
        let mut manual = std::fs::read_to_string(&path).expect("the manual of rules");
        let plain = "| argument | takes | default | means |";
        let others = "| action | argument | takes | default | the client gets |";
        let rest = ["redirect", "static", "empty", "alias", "unknown", "no_hosts"];
        let is_blessed = std::env::var_os("MANTRID_BLESS").is_some();
        for (section, head, actions) in [
            ("## `proxy`", plain, &["proxy"][..]),
            ("## The other actions", others, &rest),
            ("## `spin`", plain, &["spin"]),
        ] {
            let section = manual.find(section).expect(section);
            let start = section + manual[section..].find(head).expect(head);
            let end = start + manual[start..].find("\n\n").expect("the end of a table") + 1;
            let expected = table(head, actions);
            if is_blessed {
                manual.replace_range(start..end, &expected);
            }
            let found = &manual[start..start + expected.len().min(manual.len() - start)];
            assert!(
                found == expected,
                "docs/rules.md is old: MANTRID_BLESS=1 cargo test\n{expected}"
            );
        }
        if is_blessed {
            std::fs::write(&path, manual).expect("written");
        }
    }

    #[test]
    fn names_are_those_of_one_action_once() {
        for row in ACTIONS {
            for (index, argument) in row.arguments.iter().enumerate() {
                let rest = &row.arguments[index + 1..];
                assert!(rest.iter().all(|other| other.name != argument.name), "{}", argument.name);
                assert!(!argument.summary().contains(['`', '[', ']']), "{}", argument.summary());
            }
        }
    }
}
