//! The table of endings: how a request can end, as the access log names it, with the status of our
//! reply and whose fault it was.

use crate::http::{BadResponse, Refusal};
use crate::link::{Failure, Unreached};

/// Party whose fault an ending is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// No fault: the request ended as the rule says.
    None,
    Client,
    Backend,
    /// The configuration, the limits or the machine of this proxy.
    Mantrid,
}

/// A row of the table of endings.
#[derive(Copy, Clone, Debug)]
pub(super) struct EndingRow {
    /// Value of `termination` in the access log.
    pub(super) slug: &'static str,
    /// Status of our reply; `None` where the rule, the refusal or the backend says it, or where
    /// nothing can be sent.
    pub(super) status: Option<u16>,
    pub(super) fault: Fault,
    /// Failure that counts against a backend whose rule has `healthcheck`.
    pub(super) failure: Option<Failure>,
    #[cfg(test)]
    sentence: &'static str,
}

macro_rules! endings {
    ($($name:ident $(($payload:ty))?, $slug:literal, $status:expr, $fault:ident, $failure:expr,
        $sentence:literal;)*) => {
        /// Ending of a request or raw connection, in the spirit of HAProxy's termination states.
        #[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
        pub(super) enum Ending {
            #[default]
            $(#[doc = $sentence] $name $(($payload))?,)*
        }

        impl Ending {
            pub(super) fn row(self) -> EndingRow {
                Ending::ROWS[self.position()]
            }

            /// Names of all endings, by position; two endings may have one name.
            pub(super) const SLUGS: &'static [&'static str] = &[$($slug),*];

            /// Position in [`Ending::SLUGS`].
            pub(super) fn position(self) -> usize {
                #[derive(Copy, Clone)]
                enum Position { $($name,)* }
                let position = match self {
                    $(Ending::$name { .. } => Position::$name,)*
                };
                position as usize
            }

            const ROWS: &[EndingRow] = &[$(EndingRow {
                slug: $slug,
                status: $status,
                fault: Fault::$fault,
                failure: $failure,
                #[cfg(test)]
                sentence: $sentence,
            },)*];
        }
    };
}

endings! {
    Complete, "complete", None, None, None,
        "The backend's response went to the client, whole; both sides of a raw connection ended.";
    Local, "local", None, None, None,
        "The rule said what to reply.";
    Refused(Refusal), "refused", None, Client, None,
        "The request is not HTTP as we accept it, or too large; `reason` says why.";
    AccessDenied, "access_denied", Some(403), Client, None,
        "The rule's `allow` or `deny` keeps this client out.";
    RateLimited, "rate_limited", Some(429), Client, None,
        "The rule's `max_requests_per_second` was spent.";
    SourceLimited, "source_rate_limited", Some(429), Client, None,
        "The client spent the rule's `max_requests_per_second_per_source`.";
    HeldTimeout, "held_timeout", Some(503), Backend, None,
        "The request was held for as long as its rule allows.";
    HeldFull, "held_full", Some(503), Mantrid, None,
        "As many requests were held as may be.";
    NoBackend(Option<Unreached>), "no_backend", Some(502), Backend,
        Some(Failure::Unreachable(None)),
        "No backend could be reached; `reason` says what became of the last attempt.";
    Drained, "drained", Some(503), Mantrid, None,
        "The weight of each of the rule's backends is 0.";
    Loop, "loop", Some(508), Mantrid, None,
        "The request came through this proxy before.";
    OwnAddress, "loop", Some(502), Mantrid, None,
        "The rule's backend is this proxy itself.";
    BackendQueue, "backend_queue", Some(503), Backend, None,
        "No connection to the backend or open request of the rule was free in time, or no descriptor.";
    NoConnection, "no_connection", Some(503), Mantrid, None,
        "This machine could open no connection, for want of a port or of permission.";
    BackendSilent, "backend_silent", Some(502), Backend, Some(Failure::Silent),
        "The backend ended the connection without a response.";
    BackendBadAnswer(BadAnswer), "backend_bad_answer", Some(502), Backend, None,
        "The response can't be passed on; `reason` says why.";
    BackendTimeout, "backend_timeout", Some(504), Backend, None,
        "The backend did not respond within `timeout_server`.";
    BackendCut(Option<Refusal>), "backend_cut", None, Backend, None,
        "The response broke off or stalled; `reason` says where its framing is wrong.";
    ClientGone, "client_gone", None, Client, None,
        "The client left, or did not take its response.";
    ClientTimeout, "client_timeout", None, Client, None,
        "The client sent its body too slowly.";
    NoRule, "no_rule", None, Mantrid, None,
        "A raw connection's name has no rule, or one that is neither `proxy` nor `spin`.";
    TunnelCut, "tunnel_cut", None, Backend, None,
        "A tunnel or raw connection was reset, or silent for `timeout_tunnel`.";
    CutOff, "cut_off", None, Mantrid, None,
        "The daemon stopped at the end of `timeout_drain`, or a fault of ours ended the request.";
}

impl Ending {
    /// Status of the reply that takes the place of a response.
    pub(super) fn status(self) -> Option<u16> {
        self.row().status
    }

    /// Whether the request failed through the fault of a backend or of this proxy. A tunnel that
    /// was cut does not show whose fault that was.
    pub(super) fn is_failure(self) -> bool {
        matches!(self.row().fault, Fault::Backend | Fault::Mantrid) && self != Ending::TunnelCut
    }

    /// Whether a limit turned the request away: a rate, a bound on how many are held, or one on how
    /// many are open at once.
    pub(super) fn is_limit(self) -> bool {
        matches!(
            self,
            Ending::RateLimited | Ending::SourceLimited | Ending::HeldFull | Ending::BackendQueue
        )
    }

    /// Failure that counts against a backend, where the ending is one.
    pub(super) fn failure(self) -> Option<Failure> {
        let row = self.row();
        debug_assert!(row.failure.is_none() || row.fault == Fault::Backend, "{self:?}");
        row.failure
    }

    /// Value of `reason` in the access log.
    pub(super) fn reason(self) -> Option<&'static str> {
        match self {
            Ending::Refused(refusal) | Ending::BackendCut(Some(refusal)) => Some(refusal.slug()),
            Ending::BackendBadAnswer(why) => Some(why.slug()),
            Ending::NoBackend(Some(why)) => Some(why.slug()),
            _ => None,
        }
    }
}

/// Reason why a response can't be passed on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum BadAnswer {
    /// The head, or the first bytes of the body, break a rule.
    Response(BadResponse),
    /// The first bytes are not the beginning of a response. On a reused connection they belong to
    /// the exchange before.
    Stray,
    /// The backend ended the connection within the head.
    HeadCut,
    /// A 101 for a request that asked for no other protocol.
    SwitchUnasked,
    /// A 101 from a backend that did not take all of the request.
    SwitchEarly,
    /// More bytes of interim responses than allowed.
    Interim,
}

impl BadAnswer {
    pub(super) fn slug(self) -> &'static str {
        match self {
            BadAnswer::Response(why) => why.slug(),
            BadAnswer::Stray => "stray_bytes",
            BadAnswer::HeadCut => "head_cut",
            BadAnswer::SwitchUnasked => "switch_unasked",
            BadAnswer::SwitchEarly => "switch_early",
            BadAnswer::Interim => "too_many_interim",
        }
    }
}

impl From<BadAnswer> for Ending {
    fn from(why: BadAnswer) -> Ending {
        Ending::BackendBadAnswer(why)
    }
}

impl From<Refusal> for BadAnswer {
    fn from(refusal: Refusal) -> BadAnswer {
        BadAnswer::Response(BadResponse::Message(refusal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells of the rows of the table in docs/operations.md whose first cell is `termination`.
    fn documented() -> Vec<[String; 4]> {
        let text = include_str!("../../docs/operations.md");
        let rows = text.lines().skip_while(|line| !line.starts_with("| `termination` | meaning"));
        let cells = |line: &str| {
            let mut cells = line.split('|').skip(1).map(|cell| cell.trim().to_owned());
            std::array::from_fn(|_| cells.next().unwrap_or_default())
        };
        rows.skip(2).take_while(|line| line.starts_with('|')).map(cells).collect()
    }

    #[test]
    fn manual_has_the_table_of_endings() {
        let expected: Vec<[String; 4]> = Ending::ROWS
            .iter()
            .map(|row| {
                let fault = match row.fault {
                    Fault::None => String::new(),
                    fault => format!("{fault:?}").to_lowercase(),
                };
                let status = row.status.map(|status| status.to_string()).unwrap_or_default();
                [format!("`{}`", row.slug), row.sentence.to_owned(), status, fault]
            })
            .collect();
        assert_eq!(documented(), expected, "docs/operations.md");
    }

    #[test]
    fn only_a_backends_fault_counts_against_it() {
        for row in Ending::ROWS {
            assert!(row.failure.is_none() || row.fault == Fault::Backend, "{}", row.slug);
        }
    }

    #[test]
    fn each_ending_has_a_position_of_its_own() {
        assert_eq!(Ending::SLUGS.len(), Ending::ROWS.len());
        for ending in [
            Ending::Complete,
            Ending::Refused(Refusal::HeadTimeout),
            Ending::BackendCut(None),
            Ending::NoBackend(None),
            Ending::CutOff,
        ] {
            assert_eq!(Ending::SLUGS[ending.position()], ending.row().slug);
        }
        assert_eq!(Ending::CutOff.position() + 1, Ending::SLUGS.len());
    }

    #[test]
    fn failure_is_nobodys_fault_but_a_backends_or_ours() {
        for (ending, is_failure) in [
            (Ending::Complete, false),
            (Ending::Local, false),
            (Ending::ClientGone, false),
            (Ending::RateLimited, false),
            (Ending::TunnelCut, false),
            (Ending::BackendCut(None), true),
            (Ending::HeldTimeout, true),
            (Ending::NoRule, true),
        ] {
            assert_eq!(ending.is_failure(), is_failure, "{ending:?}");
        }
    }

    /// The slugs that docs/api.md names for `limited`.
    #[test]
    fn manual_says_which_endings_are_limits() {
        let text = include_str!("../../docs/api.md");
        let row = text.lines().find(|line| line.starts_with("| `limited` |")).expect("a row");
        for ending in [
            Ending::RateLimited,
            Ending::SourceLimited,
            Ending::HeldFull,
            Ending::BackendQueue,
            Ending::HeldTimeout,
            Ending::AccessDenied,
            Ending::NoConnection,
            Ending::Refused(Refusal::BodyTooLarge),
            Ending::Complete,
        ] {
            let is_named = row.contains(&format!("`{}`", ending.row().slug));
            assert_eq!(is_named, ending.is_limit(), "{ending:?}: {row}");
        }
    }

    #[test]
    fn reply_has_an_error_status() {
        for status in Ending::ROWS.iter().filter_map(|row| row.status) {
            assert!((400..600).contains(&status), "{status}");
        }
    }
}
