//! Parsers of the values that keys take. Each error says what was expected.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::TrustedSources;
use crate::fields::is_token;
use crate::limits;
use crate::log_style::{LogField, LogFields};
use crate::network::{Network, NetworkError};

/// Address to listen on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `*:PORT`: every address, IPv6 and IPv4.
    Any(u16),
    /// One address.
    At(SocketAddr),
}

impl Address {
    /// Whether only this machine can reach the address.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Address::At(address) if address.ip().to_canonical().is_loopback())
    }

    /// The socket address. `*` is the IPv6 address that takes IPv4 connections, too.
    pub fn socket(&self) -> SocketAddr {
        match self {
            Address::Any(port) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port),
            Address::At(address) => *address,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Any(port) => write!(f, "*:{port}"),
            Address::At(address) => address.fmt(f),
        }
    }
}

/// Address for clients, with the flags behind it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// Address to listen on.
    pub address: Address,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub accept_proxy: bool,
    /// Whether clients speak TLS to the load balancer in front.
    pub https: bool,
}

/// A user or group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// A number; 0 only where the operator wrote it.
    Id(u32),
    /// A name.
    Name(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Id(id) => id.fmt(f),
            Identity::Name(name) => name.fmt(f),
        }
    }
}

pub(super) fn address(text: &str) -> Result<Address, String> {
    let expected = "expected ADDRESS:PORT, as in *:80, 192.0.2.1:80 or [2001:db8::1]:80";
    if let Some(port) = text.strip_prefix("*:") {
        return port
            .parse()
            .map(Address::Any)
            .map_err(|_| format!("{port:?} is not a port number (0 to 65535): {expected}"));
    }
    text.parse().map(Address::At).map_err(|_| {
        let colon = text.rfind(':').filter(|at| text[*at..].find(']').is_none());
        match colon {
            None => format!("{text:?} has no port: {expected}"),
            Some(_) => format!(
                "{text:?} is not an address with a port: {expected}; host names are not looked up here"
            ),
        }
    })
}

/// An address, and perhaps `accept-proxy`.
pub(super) fn bind(text: &str) -> Result<Bind, String> {
    flagged(text, false)
}

/// An address for HTTP, and perhaps `accept-proxy` and `https`, in any order.
pub(super) fn bind_http(text: &str) -> Result<Bind, String> {
    flagged(text, true)
}

fn flagged(text: &str, is_http: bool) -> Result<Bind, String> {
    let mut words = text.split_whitespace();
    let address = address(words.next().unwrap_or(text))?;
    let mut bind = Bind { address, accept_proxy: false, https: false };
    for word in words {
        let flag = match word {
            "accept-proxy" => &mut bind.accept_proxy,
            "https" if is_http => &mut bind.https,
            _ => {
                let https = if is_http { ", https" } else { "" };
                let expected = format!("expected accept-proxy{https} or nothing");
                return Err(format!("{word:?} behind the address: {expected}"));
            }
        };
        if std::mem::replace(flag, true) {
            return Err(format!("{word:?} is there twice"));
        }
    }
    Ok(bind)
}

/// Addresses, networks and files of such (`@PATH`), with commas or spaces between them.
pub(super) fn sources(text: &str) -> Result<TrustedSources, String> {
    let mut sources = TrustedSources::default();
    for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
        match word.strip_prefix('@') {
            Some("") => return Err(format!("{word:?}: expected a path behind @")),
            Some(path) => sources.files.push(path.into()),
            None => sources.networks.push(network(word)?),
        }
    }
    Ok(sources)
}

/// A path of requests, without a query.
pub(super) fn url_path(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(is_allowed) {
        return Err(format!("{text:?}: expected a path without a query, as /healthz"));
    }
    Ok(text.to_owned())
}

/// Name of a field (RFC 9110 §5.1).
pub(super) fn field_name(text: &str) -> Result<String, String> {
    if !is_token(text.as_bytes()) {
        return Err(format!("{text:?}: expected the name of a field, as X-Forwarded-For"));
    }
    if text.eq_ignore_ascii_case("forwarded") {
        let expected = "its addresses have names and quotes; expected a field that has them plain";
        return Err(format!("{text:?}: {expected}, as X-Forwarded-For"));
    }
    Ok(text.to_owned())
}

fn network(text: &str) -> Result<Network, String> {
    let expected = "expected an address or a network, as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32";
    match Network::parse(text) {
        // Bits behind the prefix do not matter: the prefix says which network is meant.
        Ok(network) | Err(NetworkError::HostBits(network)) => Ok(network),
        Err(NetworkError::Syntax) => Err(format!("{text:?}: {expected}")),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a number with a unit of ms, s, m or h, as in 500ms, 10s or 1h";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let per_unit = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("{text:?} has no unit: {expected}")),
        _ => return Err(format!("{text:?}: {expected}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?}: {expected}"))?;
    match number.checked_mul(per_unit) {
        Some(0) => Err(format!("{text:?} would always have passed: expected more than zero")),
        Some(ms) if ms <= 31 * 24 * 3_600_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is too long: expected at most 744h")),
    }
}

/// `off`, or a time in microseconds.
pub(super) fn busy_poll(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let most = limits::BUSY_POLL_MAX.as_micros();
    let number = text.strip_suffix("us").and_then(|number| number.trim_end().parse().ok());
    let time = number.map(Duration::from_micros);
    let time = time.filter(|time| !time.is_zero() && *time <= limits::BUSY_POLL_MAX);
    time.map(Some).ok_or_else(|| format!("{text:?}: expected off, or 1us to {most}us"))
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let expected = "expected a number of bytes, with k or m for 1024 or 1048576 of them";
    let (number, unit) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&text[..text.len() - 1], 1024),
        Some(b'm') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    let number: usize = number.trim_end().parse().map_err(|_| format!("{text:?}: {expected}"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text:?} is too large: {expected}"))
}

pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?}: expected a whole number of at least 1")),
        Ok(n) => Ok(n),
    }
}

/// Fields of the access log by their names.
pub(super) fn log_fields(text: &str) -> Result<LogFields, String> {
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    let mut fields = LogFields::NONE;
    for word in words {
        let known = LogField::ALL.iter().find(|(_, name)| *name == word);
        fields = match known {
            Some((field, _)) => fields.with(*field),
            None if word == "default" => fields.union(LogFields::DEFAULT),
            None => {
                let names: Vec<&str> = LogField::ALL.iter().map(|(_, name)| *name).collect();
                return Err(format!("{word:?}: expected default or {}", names.join(", ")));
            }
        };
    }
    match fields {
        LogFields::NONE => Err(format!("{text:?}: expected at least one field")),
        fields => Ok(fields),
    }
}

/// The number N of a share 1/N.
pub(super) fn one_of(text: &str) -> Result<NonZeroU32, String> {
    let number = text.split_once('/').filter(|(one, _)| one.trim() == "1");
    let number = number.and_then(|(_, number)| number.trim().parse().ok());
    number.ok_or_else(|| format!("{text:?}: expected 1/N, as 1/100"))
}

pub(super) fn error_status(text: &str) -> Result<u16, String> {
    let status = text.parse().ok().filter(|status| (400..=599).contains(status));
    status.ok_or_else(|| format!("{text:?}: expected a status from 400 to 599"))
}

pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?}: expected true or false")),
    }
}

/// Name of a proxy in Via: a pseudonym, or a host with a port (RFC 9110 §7.6.3).
pub(super) fn pseudonym(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_allowed) || limits::VIA_BYTES_MAX < text.len() {
        let most = limits::VIA_BYTES_MAX;
        return Err(format!("{text:?}: expected off or a name as edge-1, at most {most} bytes"));
    }
    Ok(text.to_owned())
}

/// Reads numbers of CPUs, such as `0,2-3`.
pub(super) fn cpus(text: &str) -> Result<Vec<usize>, String> {
    let bad = || format!("{text:?}: expected CPU numbers, as in 0,2-3");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if last < first || 4096 <= last {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

pub(super) fn identity(text: &str) -> Result<Identity, String> {
    if let Ok(id) = text.parse() {
        return Ok(Identity::Id(id));
    }
    let is_name = !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.$".contains(&b));
    if is_name {
        Ok(Identity::Name(text.to_owned()))
    } else {
        Err(format!("{text:?}: expected a number or a name"))
    }
}
