//! Content of a rule, typed. [`super::json`] reads and writes it, `Snapshot` stores it.
//!
//! A table may hold a million rules, nearly all of them `proxy` to one address with every argument
//! at its default. Such a rule must stay small: 32 bytes, asserted below, and nothing else on the
//! heap. So arguments that are rarely given lie behind a pointer, and accessors read them. The
//! pointers are shared ones, because an edit copies the rules that lie beside the changed one. An
//! argument that was given is stored even if it equals the default, so that operators read back
//! what they have set.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::backend::{Backend, Backends};
use super::check::Check;
use super::overrides::Overrides;
use super::reply_options::ReplyOptions;
use crate::address::Address;

/// Decision about the requests for one host name.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The action.
    pub action: Action,
    /// Whether the rule is for subdomains, too.
    pub match_subdomains: bool,
}

impl Rule {
    /// Visits the addresses that requests of this rule go to, as they are known now. A rule other
    /// than `proxy` has none, and a backend whose name was not found has none.
    pub fn each_address(&self, mut visit: impl FnMut(Address)) {
        if let Action::Proxy(proxy) = &self.action {
            proxy.all_backends().for_each(|backend| backend.each_address(&mut visit));
        }
    }

    /// Visits the addresses that new requests of this rule may go to: those of backends whose
    /// weight is not 0.
    pub fn each_open_address(&self, mut visit: impl FnMut(Address)) {
        if let Action::Proxy(proxy) = &self.action {
            let open = proxy.all_backends().filter(|backend| backend.weight() != 0);
            open.for_each(|backend| backend.each_address(&mut visit));
        }
    }

    /// The id of the check that backends of this rule are to pass, if there is one.
    pub fn check_id(&self) -> Option<u64> {
        match &self.action {
            Action::Proxy(proxy) => proxy.check().map(|check| check.id()),
            _ => None,
        }
    }

    /// The name that the rule is an alias of.
    pub(super) fn alias_target(&self) -> Option<&str> {
        match &self.action {
            Action::Alias(target) => Some(target),
            _ => None,
        }
    }
}

/// Action of a rule, with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Pass the request on to a backend.
    Proxy(Proxy),
    /// Hold the request until the rule changes to another action.
    Spin(Arc<Spin>),
    /// Reply with a `Location`.
    Redirect(Arc<Redirect>),
    /// Reply with a page.
    Static(Arc<StaticPage>),
    /// Reply with a status and no body.
    Empty(Empty),
    /// Apply the rule of this name (canonical, with its `http://` if it has one).
    Alias(Arc<str>),
    /// Reply as for a host that has no rule.
    Unknown,
    /// Reply as if there were no rules at all.
    NoHosts,
}

impl Action {
    /// The rule's own arguments that override keys, if it has any. [`Snapshot::overrides`] has
    /// those that apply.
    ///
    /// [`Snapshot::overrides`]: super::Snapshot::overrides
    #[inline]
    pub(super) fn overrides(&self) -> Option<&Arc<Overrides>> {
        match self {
            Action::Proxy(proxy) => proxy.overrides(),
            Action::Spin(spin) => spin.overrides.as_ref(),
            Action::Redirect(redirect) => redirect.options.as_deref()?.overrides.as_ref(),
            Action::Static(page) => page.options.as_deref()?.overrides.as_ref(),
            Action::Empty(empty) => empty.options.as_deref()?.overrides.as_ref(),
            Action::Alias(_) | Action::Unknown | Action::NoHosts => None,
        }
    }

    /// The rule's own lists of clients that it lets in or keeps out, if it has any.
    /// [`Snapshot::access`] has those that apply.
    ///
    /// [`Snapshot::access`]: super::Snapshot::access
    #[inline]
    pub fn access(&self) -> Option<&Access> {
        let access = match self {
            Action::Proxy(proxy) => &proxy.options.as_deref()?.access,
            Action::Spin(spin) => &spin.access,
            Action::Redirect(redirect) => &redirect.options.as_deref()?.access,
            Action::Static(page) => &page.options.as_deref()?.access,
            Action::Empty(empty) => &empty.options.as_deref()?.access,
            Action::Alias(_) | Action::Unknown | Action::NoHosts => return None,
        };
        access.as_deref()
    }
}

const _: () = assert!(size_of::<Rule>() == 32 && size_of::<Backend>() == 16);

/// How the next backend is chosen.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// A random backend, in proportion to the weights.
    #[default]
    Random,
    /// One backend after the other, in turn.
    RoundRobin,
    /// The backend with the fewest requests in flight for its weight; ties are broken at random.
    LeastConnections,
    /// A hash of the client's address: a client keeps its backend as long as that is usable.
    Source,
    /// A hash of the value of a cookie; a random backend for requests without it.
    Cookie,
    /// A hash of the value of a field; a random backend for requests without it.
    Field,
}

/// Version of the PROXY protocol.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum SendProxy {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl SendProxy {
    /// Name of the version in a rule.
    pub fn as_str(self) -> &'static str {
        match self {
            SendProxy::V1 => "v1",
            SendProxy::V2 => "v2",
        }
    }
}

/// The arguments of `proxy`.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    pub(super) backends: Backends,
    pub(super) options: Option<Arc<ProxyOptions>>,
}

/// Arguments about the distribution of requests that few rules give; `None` is "not given".
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct Sharing {
    pub backup: Option<Box<[Backend]>>,
    /// Name of the cookie or field of `algorithm`.
    pub affinity: Option<Box<str>>,
    pub max_open_requests: Option<NonZeroU32>,
    pub slow_start: Option<Duration>,
}

/// Arguments of `proxy` besides the backends; `None` is "not given".
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct ProxyOptions {
    pub attempts: Option<u16>,
    pub algorithm: Option<Algorithm>,
    pub healthcheck: Option<bool>,
    pub max_connections: Option<NonZeroU32>,
    pub max_requests_per_second: Option<NonZeroU32>,
    pub delay: Option<Duration>,
    pub hold: Option<Duration>,
    pub idle: Option<Duration>,
    pub wake: Option<Box<str>>,
    pub check: Option<Arc<Check>>,
    pub sharing: Option<Box<Sharing>>,
    pub send_proxy: Option<SendProxy>,
    pub keep_alive: Option<bool>,
    pub overrides: Option<Arc<Overrides>>,
    pub access: Option<Box<Access>>,
    pub max_requests_per_second_per_source: Option<NonZeroU32>,
}

impl Proxy {
    fn given<T>(&self, read: impl Fn(&ProxyOptions) -> Option<T>) -> Option<T> {
        self.options.as_deref().and_then(read)
    }

    fn sharing(&self) -> Option<&Sharing> {
        self.options.as_deref().and_then(|o| o.sharing.as_deref())
    }

    /// Backends that requests go to; never empty.
    #[inline]
    pub fn backends(&self) -> &[Backend] {
        self.backends.as_slice()
    }

    /// Backends that requests go to while none of [`Proxy::backends`] is usable.
    #[inline]
    pub fn backup(&self) -> &[Backend] {
        self.sharing().and_then(|sharing| sharing.backup.as_deref()).unwrap_or_default()
    }

    /// All backends, `backup` last.
    pub fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends().iter().chain(self.backup())
    }

    /// The backend at this position in [`Proxy::all_backends`].
    pub fn backend(&self, index: usize) -> &Backend {
        let backends = self.backends();
        match index.checked_sub(backends.len()) {
            None => &backends[index],
            Some(index) => &self.backup()[index],
        }
    }

    /// Whether no backend gets requests, because all weights are 0.
    pub fn is_drained(&self) -> bool {
        self.all_backends().all(|backend| backend.weight() == 0)
    }

    /// Number of connections that are tried for one request.
    pub fn attempts(&self) -> u16 {
        self.given(|o| o.attempts).unwrap_or(1)
    }

    /// The pause before another attempt.
    pub fn delay(&self) -> Duration {
        self.given(|o| o.delay).unwrap_or(Duration::from_secs(1))
    }

    /// How the next backend is chosen.
    pub fn algorithm(&self) -> Algorithm {
        self.given(|o| o.algorithm).unwrap_or_default()
    }

    /// Value of the argument `algorithm`.
    pub fn algorithm_text(&self) -> Cow<'static, str> {
        match (self.algorithm(), self.affinity()) {
            (Algorithm::Cookie, Some(name)) => format!("cookie:{name}").into(),
            (Algorithm::Field, Some(name)) => format!("field:{name}").into(),
            (algorithm, _) => algorithm.as_str().into(),
        }
    }

    /// Name of the cookie or field whose value decides.
    pub fn affinity(&self) -> Option<&str> {
        self.sharing()?.affinity.as_deref()
    }

    /// Whether backends that fail requests are passed over and probed until they recover.
    pub fn healthcheck(&self) -> bool {
        self.given(|o| o.healthcheck).unwrap_or(true)
    }

    /// Most requests in flight to one backend.
    pub fn max_connections(&self) -> Option<NonZeroU32> {
        self.given(|o| o.max_connections)
    }

    /// Most requests that are open at all backends together.
    pub fn max_open_requests(&self) -> Option<NonZeroU32> {
        self.sharing()?.max_open_requests
    }

    /// The check that probes the backends all the time, if the rule asks for one.
    pub fn check(&self) -> Option<&Arc<Check>> {
        let check = self.options.as_deref().and_then(|o| o.check.as_ref());
        check.filter(|check| check.is_active())
    }

    /// Time in which the share of a backend that was added or came back grows from a tenth to the
    /// whole.
    pub fn slow_start(&self) -> Option<Duration> {
        self.sharing()?.slow_start.filter(|time| !time.is_zero())
    }

    /// Version of the PROXY protocol header with which each connection to a backend begins, if any.
    pub fn send_proxy(&self) -> Option<SendProxy> {
        self.given(|o| o.send_proxy)
    }

    /// Whether connections to the rule's backends are kept for the next request.
    pub fn keep_alive(&self) -> bool {
        self.given(|o| o.keep_alive).unwrap_or(true)
    }

    /// Timeout for one connection to a backend, and for waiting in the queue of a backend; `None`:
    /// that of the configuration.
    pub fn timeout_connect(&self) -> Option<Duration> {
        self.overrides()?.timeout_connect()
    }

    /// Time for which a tunnel may be silent; `None`: that of the configuration.
    pub fn timeout_tunnel(&self) -> Option<Duration> {
        self.overrides()?.timeout_tunnel()
    }

    fn overrides(&self) -> Option<&Arc<Overrides>> {
        self.options.as_deref()?.overrides.as_ref()
    }

    /// Most requests per second; requests beyond get a 429.
    pub fn max_requests_per_second(&self) -> Option<NonZeroU32> {
        self.given(|o| o.max_requests_per_second)
    }

    /// Most requests per second of one client; requests beyond get a 429.
    pub fn max_requests_per_second_per_source(&self) -> Option<NonZeroU32> {
        self.given(|o| o.max_requests_per_second_per_source)
    }

    /// How long a request is held while no backend can be reached; zero: the request fails at once.
    pub fn hold(&self) -> Duration {
        self.given(|o| o.hold).unwrap_or(Duration::ZERO)
    }

    /// Time without traffic after which the rule counts as idle.
    pub fn idle(&self) -> Option<Duration> {
        self.given(|o| o.idle)
    }

    /// URL that gets a POST when the rule is idle.
    pub fn wake(&self) -> Option<&str> {
        self.options.as_deref().and_then(|o| o.wake.as_deref())
    }
}

/// The arguments of `spin`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Spin {
    pub(super) timeout: Option<Duration>,
    pub(super) check_interval: Option<Duration>,
    pub(super) max_held: Option<NonZeroU32>,
    pub(super) release_rate: Option<NonZeroU32>,
    pub(super) wake: Option<Box<str>>,
    pub(super) idle: Option<Duration>,
    pub(super) then: Option<Box<Rule>>,
    pub(super) overrides: Option<Arc<Overrides>>,
    pub(super) access: Option<Box<Access>>,
}

impl Spin {
    /// How long a request is held at most.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(120))
    }

    /// Most requests held for this rule.
    pub fn max_held(&self) -> Option<NonZeroU32> {
        self.max_held
    }

    /// Held requests that go on per second after the change; `None`: all go on at once.
    pub fn release_rate(&self) -> Option<NonZeroU32> {
        self.release_rate
    }

    /// URL that gets a POST when requests begin to wait.
    pub fn wake(&self) -> Option<&str> {
        self.wake.as_deref()
    }

    /// The rule that stood before, for the program that flips the host back. Meanwhile this rule
    /// decides what the spin leaves open: which clients are served, and with which pages.
    pub fn then(&self) -> Option<&Rule> {
        self.then.as_deref()
    }

    /// Time without traffic after which `wake` gets a POST, too.
    pub fn idle(&self) -> Option<Duration> {
        self.idle
    }
}

/// The arguments of `redirect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    pub(super) to: Box<str>,
    pub(super) code: Option<u16>,
    pub(super) options: Option<Box<ReplyOptions>>,
}

impl Redirect {
    /// Target: a host, or a whole address with `://`. Printable ASCII without spaces.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// Status of the reply.
    pub fn code(&self) -> u16 {
        self.code.unwrap_or(302)
    }
}

/// The arguments of `static`.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticPage {
    pub(super) page: Box<str>,
    pub(super) options: Option<Box<ReplyOptions>>,
}

impl StaticPage {
    /// Name of the page.
    pub fn page(&self) -> &str {
        &self.page
    }
}

/// The arguments of `empty`.
#[derive(Clone, Debug, PartialEq)]
pub struct Empty {
    pub(super) code: u16,
    pub(super) options: Option<Box<ReplyOptions>>,
}

impl Empty {
    /// An empty reply with this status, for every client.
    pub fn new(code: u16) -> Empty {
        Empty { code, options: None }
    }

    /// Status of the reply.
    pub fn code(&self) -> u16 {
        self.code
    }
}
