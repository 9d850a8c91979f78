//! Why a change of the fleet's table was not made: the code for programs, the sentence for people.

use super::etcd::EtcdError;

/// Why a change of the fleet's table was not made, or is not known to have been.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum Trouble {
    /// etcd does not answer; `true`: the change may have been made.
    Unreachable(String, bool),
    /// etcd no longer holds this fleet.
    Lost(String),
    /// Other nodes were faster each time.
    Busy,
    /// etcd's quota is spent.
    NoSpace,
    /// etcd refuses the change.
    Denied(String),
}

impl Trouble {
    /// The kind of trouble, for programs.
    pub(in crate::control) fn code(&self) -> &'static str {
        match self {
            Trouble::Unreachable(..) => "fleet_unreachable",
            Trouble::Lost(_) => "fleet_lost",
            Trouble::Busy => "busy",
            Trouble::NoSpace => "fleet_no_space",
            Trouble::Denied(_) => "fleet_denied",
        }
    }

    /// Sentence for people: the meaning, and what to do.
    pub(in crate::control) fn sentence(&self) -> String {
        match self {
            Trouble::Unreachable(why, false) => format!("the change was not made: {why}"),
            Trouble::Unreachable(why, true) => {
                format!("the change may have been made: {why}; read the table before trying again")
            }
            Trouble::Lost(why) => format!(
                "the change was not made: {why}; an operator must decide: restore etcd, or \
                 `mantrid-client fleet init --from-here` on the node whose table is to be \
                 everybody's, or `mantrid-client fleet join` to take the fleet's"
            ),
            Trouble::Busy => "other nodes change the table all the time: try again".to_owned(),
            Trouble::NoSpace => {
                "the change was not made: etcd's quota is spent (NOSPACE): compact \
                 and defragment it, raise quota-backend-bytes, then `etcdctl alarm disarm`"
                    .to_owned()
            }
            Trouble::Denied(why) => {
                format!("the change was not made: {why}; fleet_user needs readwrite on its prefix")
            }
        }
    }

    pub(super) fn of(error: EtcdError, may_be_made: bool) -> Trouble {
        match error {
            EtcdError::NoSpace => Trouble::NoSpace,
            EtcdError::Denied(why) => Trouble::Denied(why),
            EtcdError::Unreachable(why) => Trouble::Unreachable(why, may_be_made),
            error => Trouble::Unreachable(error.to_string(), may_be_made),
        }
    }
}
