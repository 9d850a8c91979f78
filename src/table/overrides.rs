//! Arguments of a rule that override keys of the configuration, or fields of a head, for this rule
//! alone.
//!
//! Few rules have such arguments, so they lie behind a pointer of their own. A request of such a
//! rule holds a reference to them, because it lets the table that routed it go before bytes flow.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::arguments::{Arguments, Problem, page_name, put, seconds_to_json};
use super::head_arguments::{HostSent, fields_to_json, read_fields};
use crate::fields::FieldChange;

/// Arguments of a rule that override keys or heads; `None` is "not given".
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Overrides {
    timeout_connect: Option<Duration>,
    timeout_server: Option<Duration>,
    timeout_tunnel: Option<Duration>,
    max_body: Option<u64>,
    host: Option<HostSent>,
    set_request: Option<Box<[FieldChange]>>,
    set_response: Option<Box<[FieldChange]>>,
    pages: Option<Box<str>>,
}

impl Overrides {
    /// Timeout for one connection to a backend, and for waiting in the queue of a backend.
    pub fn timeout_connect(&self) -> Option<Duration> {
        self.timeout_connect
    }

    /// Time for which a backend may be silent.
    pub fn timeout_server(&self) -> Option<Duration> {
        self.timeout_server
    }

    /// Time for which a tunnel, or a raw connection, may be silent.
    pub fn timeout_tunnel(&self) -> Option<Duration> {
        self.timeout_tunnel
    }

    /// Most bytes of a request body.
    pub fn max_body(&self) -> Option<u64> {
        self.max_body
    }

    /// Host that backends get.
    pub fn host(&self) -> Option<&HostSent> {
        self.host.as_ref()
    }

    /// Fields that are set or removed in requests.
    pub fn set_request(&self) -> &[FieldChange] {
        self.set_request.as_deref().unwrap_or_default()
    }

    /// Fields that are set or removed in final responses.
    pub fn set_response(&self) -> &[FieldChange] {
        self.set_response.as_deref().unwrap_or_default()
    }

    /// First part of the names of the rule's own pages.
    pub fn pages(&self) -> Option<&str> {
        self.pages.as_deref()
    }

    /// Arguments for a spin: its own and, for each that it lacks, the one of the rule that stood
    /// before. Only the arguments that `spin` takes matter.
    pub(super) fn of_spin(own: Option<Arc<Overrides>>, before: &Arc<Overrides>) -> Arc<Overrides> {
        let Some(own) = own else { return before.clone() };
        Arc::new(Overrides {
            max_body: own.max_body.or(before.max_body),
            pages: own.pages.clone().or_else(|| before.pages.clone()),
            ..Overrides::default()
        })
    }

    /// Reads those of the arguments that the action takes; `None` if none is given.
    pub(super) fn read(arguments: &Arguments<'_>) -> Result<Option<Arc<Overrides>>, Problem> {
        let overrides = Overrides {
            timeout_connect: arguments.seconds_within("timeout_connect")?,
            timeout_server: arguments.seconds_within("timeout_server")?,
            timeout_tunnel: arguments.seconds_within("timeout_tunnel")?,
            max_body: arguments.whole("max_body")?,
            host: arguments.optional("host", HostSent::read)?,
            set_request: read_fields(arguments, "set_request")?,
            set_response: read_fields(arguments, "set_response")?,
            pages: arguments.optional("pages", page_name)?,
        };
        Ok((overrides != Overrides::default()).then(|| Arc::new(overrides)))
    }

    /// Writes the arguments in the form in which they are read.
    pub(super) fn put_into(&self, arguments: &mut Map<String, Value>) {
        put(arguments, "timeout_connect", self.timeout_connect.map(seconds_to_json));
        put(arguments, "timeout_server", self.timeout_server.map(seconds_to_json));
        put(arguments, "timeout_tunnel", self.timeout_tunnel.map(seconds_to_json));
        put(arguments, "max_body", self.max_body);
        put(arguments, "host", self.host.as_ref().map(HostSent::as_str));
        put(arguments, "set_request", self.set_request.as_deref().map(fields_to_json));
        put(arguments, "set_response", self.set_response.as_deref().map(fields_to_json));
        put(arguments, "pages", self.pages());
    }
}
