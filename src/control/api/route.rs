//! Path and query of a management request. All that the original Mantrid accepted is accepted here
//! too.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::error::ApiError;
use crate::limits;

const READ: &str = "GET, HEAD";

/// Every path of the API with its methods, in the order of the manual.
pub(super) const ROUTES: &[(&str, &str)] = &[
    ("/hostname/", "GET, HEAD, PUT, PATCH"),
    ("/hostname/{host}/", "GET, HEAD, PUT, DELETE"),
    ("/held/", READ),
    ("/changes/", READ),
    ("/history/", READ),
    ("/which/{host}", READ),
    ("/which/", READ),
    ("/stats/", READ),
    ("/stats/{host}/", READ),
    ("/backends/", READ),
    ("/fleet/", READ),
    ("/fleet/init", "POST"),
    ("/fleet/join", "POST"),
    ("/fleet/leave", "POST"),
    ("/events", READ),
    ("/metrics", READ),
    ("/healthz", READ),
    ("/readyz", READ),
    ("/openapi.json", READ),
    ("/support", READ),
    ("/", READ),
];

/// Route: the resource that a path names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Route {
    Dashboard,
    Liveness,
    Readiness,
    Description,
    Support,
    Metrics,
    Events,
    /// The last changes, and the last hour.
    Changes,
    History,
    Backends,
    Held,
    /// Prediction for a request for a host. Empty: for the host that the query names.
    Which(String),
    /// All rules, or one.
    Rules,
    Rule(String),
    /// The fleet, and decisions about it.
    Fleet,
    FleetStep(FleetStep),
    /// All counters, or those of one host.
    AllStatistics,
    Statistics(String),
}

/// A decision of the operator about the fleet.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum FleetStep {
    Init,
    Join,
    Leave,
}

impl Route {
    /// Reads a path. As in the original, the first word may be in any case, and the last slash may
    /// be missing. The rest of the path is a host, percent-encoded or not.
    pub(super) fn of(path: &str) -> Result<Route, ApiError> {
        let rest = path.strip_prefix('/').unwrap_or(path);
        let (word, host) = rest.split_once('/').unwrap_or((rest, ""));
        let given = host;
        let host = match percent_decode_str(host.strip_suffix('/').unwrap_or(host)).decode_utf8() {
            Ok(host) => host.into_owned(),
            Err(_) => return Err(ApiError::bad("hostname_invalid", "the host is not UTF-8")),
        };
        // A script makes `/hostname//` of an empty variable. That must not mean the whole table.
        if host.is_empty() && !given.is_empty() && !word.is_empty() {
            let message =
                format!("the host name is empty; all of them are /{word}/, with one slash");
            return Err(ApiError::bad(":hostname_invalid", message));
        }
        let route = match (&*word.to_ascii_lowercase(), &*host) {
            ("", "") => Route::Dashboard,
            ("healthz", "") => Route::Liveness,
            ("readyz", "") => Route::Readiness,
            ("openapi.json", "") => Route::Description,
            ("support", "") => Route::Support,
            ("metrics", "") => Route::Metrics,
            ("events", "") => Route::Events,
            ("changes", "") => Route::Changes,
            ("history", "") => Route::History,
            ("backends", "") => Route::Backends,
            ("held", "") => Route::Held,
            ("which", _) => Route::Which(host),
            ("hostname", "") => Route::Rules,
            ("hostname", _) => Route::Rule(host),
            ("fleet", "") => Route::Fleet,
            ("fleet", "init") => Route::FleetStep(FleetStep::Init),
            ("fleet", "join") => Route::FleetStep(FleetStep::Join),
            ("fleet", "leave") => Route::FleetStep(FleetStep::Leave),
            ("stats", "") => Route::AllStatistics,
            ("stats", _) => Route::Statistics(host),
            _ => return Err(ApiError::not_found(path)),
        };
        Ok(route)
    }

    /// Host that the path names, as it was given.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Route::Rule(host) | Route::Statistics(host) => Some(host),
            _ => None,
        }
    }

    /// Path of the route in [`ROUTES`].
    pub(super) fn path(&self) -> &'static str {
        match self {
            Route::Dashboard => "/",
            Route::Liveness => "/healthz",
            Route::Readiness => "/readyz",
            Route::Description => "/openapi.json",
            Route::Support => "/support",
            Route::Metrics => "/metrics",
            Route::Events => "/events",
            Route::Changes => "/changes/",
            Route::History => "/history/",
            Route::Backends => "/backends/",
            Route::Held => "/held/",
            Route::Which(host) if host.is_empty() => "/which/",
            Route::Which(_) => "/which/{host}",
            Route::Rules => "/hostname/",
            Route::Rule(_) => "/hostname/{host}/",
            Route::Fleet => "/fleet/",
            Route::FleetStep(FleetStep::Init) => "/fleet/init",
            Route::FleetStep(FleetStep::Join) => "/fleet/join",
            Route::FleetStep(FleetStep::Leave) => "/fleet/leave",
            Route::AllStatistics => "/stats/",
            Route::Statistics(_) => "/stats/{host}/",
        }
    }

    /// Methods that the route accepts.
    pub(super) fn methods(&self) -> &'static str {
        let path = self.path();
        let row = ROUTES.iter().find(|(known, _)| *known == path);
        row.map_or(READ, |(_, methods)| methods)
    }
}

/// Arguments of the query, each of a name that the request accepts.
#[derive(Debug, Default)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads the arguments. One that is not among `known` is refused: otherwise a misspelt name
    /// would silently do something else.
    pub(super) fn of(text: Option<&'a str>, known: &[&str]) -> Result<Query<'a>, ApiError> {
        let pairs: Vec<_> = form_urlencoded::parse(text.unwrap_or_default().as_bytes()).collect();
        if let Some((name, _)) = pairs.iter().find(|(name, _)| !known.contains(&&**name)) {
            let expected = match known {
                [] => "none is taken here".to_owned(),
                known => format!("expected {}", known.join(", ")),
            };
            let message = format!("{name}: no such argument; {expected}");
            return Err(ApiError::bad("query_unknown", message));
        }
        let is_twice = |at: usize| {
            let (name, _) = &pairs[at];
            !matches!(&**name, "host" | "address")
                && pairs[..at].iter().any(|(before, _)| before == name)
        };
        if let Some(at) = (0..pairs.len()).find(|at| is_twice(*at)) {
            let message = format!("{}: given twice", pairs[at].0);
            return Err(ApiError::bad("query_invalid", message));
        }
        Ok(Query(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(super) fn all<'q>(&'q self, name: &str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Reads a flag: `1` or `true`, `0` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true" | "") => Ok(true),
            Some(other) => Err(invalid(name, other, "1 or 0")),
        }
    }

    /// Reads an argument that has one of these values, or is missing or empty. Any other value is
    /// refused: otherwise a misspelt value would find nothing, and the empty result would be
    /// believed.
    pub(super) fn one_of(
        &self,
        name: &str,
        mut known: impl Iterator<Item = &'static str> + Clone,
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let expected = known.clone();
        known.find(|known| *known == text).map(Some).ok_or_else(|| {
            invalid(name, text, &format!("one of {}", expected.collect::<Vec<_>>().join(", ")))
        })
    }

    pub(super) fn count(&self, name: &str, most: usize) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(count) if count <= most => Ok(Some(count)),
            _ => Err(invalid(name, text, &format!("a whole number up to {most}"))),
        }
    }

    /// Reads a duration: `500ms`, `30s`, `5m`, `1h`, or a number of seconds.
    pub(super) fn duration(
        &self,
        name: &str,
        most: Duration,
    ) -> Result<Option<Duration>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("", 1000)];
        let read = units.iter().find_map(|(unit, millis)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(*millis).map(Duration::from_millis)
        });
        match read {
            Some(duration) if duration <= most => Ok(Some(duration)),
            _ => Err(invalid(name, text, &format!("a time like 30s, at most {}s", most.as_secs()))),
        }
    }
}

fn invalid(name: &str, found: &str, expected: &str) -> ApiError {
    let found: String = found.chars().take(limits::PAGE_NAME_BYTES_MAX).collect();
    ApiError::bad("query_invalid", format!("{name}={found}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> Route {
        Route::of(path).unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    #[test]
    fn paths_are_read_as_the_original_read_them() {
        assert_eq!(route("/"), Route::Dashboard);
        assert_eq!(route("/hostname/"), Route::Rules);
        assert_eq!(route("/hostname"), Route::Rules);
        assert_eq!(route("/HostName/A.com/"), Route::Rule("A.com".to_owned()));
        assert_eq!(route("/hostname/a.com"), Route::Rule("a.com".to_owned()));
        assert_eq!(route("/which/A.com:80"), Route::Which("A.com:80".to_owned()));
        assert_eq!(route("/which/"), Route::Which(String::new()));
        assert_eq!(route("/stats/"), Route::AllStatistics);
        assert_eq!(route("/stats/a.com"), Route::Statistics("a.com".to_owned()));
        for path in
            ["/hostname/http%3A%2F%2Fa.com/", "/hostname/http://a.com", "/hostname/http:%2f/a.com/"]
        {
            assert_eq!(route(path), Route::Rule("http://a.com".to_owned()), "{path}");
        }
        for path in ["/hosts", "/metrics/more", "/healthz/x/", "/stats2"] {
            assert!(Route::of(path).is_err(), "{path}");
        }
        assert!(Route::of("/hostname/%ff/").is_err());
        // an empty name does not mean all names
        for path in ["/hostname//", "/HOSTNAME//", "/stats//"] {
            assert_eq!(
                Route::of(path).err().map(|error| error.code),
                Some(":hostname_invalid".to_owned())
            );
        }
    }

    #[test]
    fn each_path_of_the_list_is_a_route() {
        for (path, methods) in ROUTES {
            let found = route(&path.replace("{host}", "a.com"));
            assert_eq!((found.path(), found.methods()), (*path, *methods));
        }
    }

    #[test]
    fn arguments_are_checked() {
        let query = Query::of(
            Some("timeout=1500ms&dry_run=1&host=a&host=b%20c"),
            &["timeout", "dry_run", "host"],
        );
        let query = query.expect("known arguments");
        let most = Duration::from_secs(60);
        assert_eq!(query.duration("timeout", most).ok(), Some(Some(Duration::from_millis(1500))));
        assert!(query.duration("timeout", Duration::from_secs(1)).is_err());
        assert_eq!(query.flag("dry_run").ok(), Some(true));
        assert_eq!(query.all("host").collect::<Vec<_>>(), ["a", "b c"]);
        assert!(Query::of(Some("dryrun=1"), &["dry_run"]).is_err());
        for (text, expected) in [("3", 3000), ("3s", 3000), ("2m", 120_000), ("1h", 3_600_000)] {
            let text = format!("t={text}");
            let query = Query::of(Some(&text), &["t"]).expect("known");
            let found = query.duration("t", limits::DRAIN_WAIT_MAX).expect("a time");
            assert_eq!(found, Some(Duration::from_millis(expected)), "{text}");
        }
        for text in ["t=-1s", "t=s", "t=1d", "t=99999999999999999999h", "t=1.5s"] {
            let query = Query::of(Some(text), &["t"]).expect("known");
            assert!(query.duration("t", limits::DRAIN_WAIT_MAX).is_err(), "{text}");
        }
    }
}
