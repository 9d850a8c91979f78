//! Reasons to refuse an edit: each with a code for programs and a sentence for people.

use std::fmt;

use super::host::HostError;
use crate::limits::ALIAS_CHAIN_MAX;

/// Why an edit is refused; the table stays as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EditError {
    /// A name that can't be one.
    Name {
        /// The name as it was given.
        host: String,
        /// The fault of the name.
        error: HostError,
    },
    /// An alias to a rule that does not exist.
    AliasMissing {
        /// The alias.
        host: String,
        /// Name that the alias points to.
        target: String,
    },
    /// A deletion of a rule that an alias still points to.
    Aliased {
        /// Name that was to be deleted.
        host: String,
        /// An alias of it.
        alias: String,
    },
    /// An alias that leads back to itself.
    AliasLoop {
        /// The alias.
        host: String,
    },
    /// An alias that leads to a rule only through too many other aliases.
    AliasTooLong {
        /// The alias.
        host: String,
    },
    /// A redirect that leads back to itself, directly or through other redirects.
    RedirectLoop {
        /// The rule whose redirects or aliases would lead into the circle.
        host: String,
        /// Target of the last redirect.
        to: String,
    },
    /// A redirect whose target is not the address of a web server.
    RedirectTarget {
        /// The rule.
        host: String,
        /// The `redirect_to` of the rule.
        to: String,
    },
}

impl EditError {
    /// The rule at fault.
    pub fn host(&self) -> &str {
        match self {
            EditError::Name { host, .. }
            | EditError::AliasMissing { host, .. }
            | EditError::Aliased { host, .. }
            | EditError::AliasLoop { host }
            | EditError::AliasTooLong { host }
            | EditError::RedirectLoop { host, .. }
            | EditError::RedirectTarget { host, .. } => host,
        }
    }

    /// The kind of error, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            EditError::Name { .. } => "hostname_invalid",
            EditError::AliasMissing { .. } => "alias_missing",
            EditError::Aliased { .. } => "host_aliased",
            EditError::AliasLoop { .. } => "alias_loop",
            EditError::AliasTooLong { .. } => "alias_too_long",
            EditError::RedirectLoop { .. } => "redirect_loop",
            EditError::RedirectTarget { .. } => "host_kwarg_invalid:redirect_to",
        }
    }

    /// Sentence for people that says what is wrong.
    pub fn sentence(&self) -> String {
        match self {
            EditError::Name { error, .. } => error.sentence().to_owned(),
            EditError::AliasMissing { host, target } => {
                format!("{host} is an alias of {target}, for which there is no rule")
            }
            EditError::Aliased { host, alias } => {
                format!("{host} can't be deleted: {alias} is an alias of it")
            }
            EditError::AliasLoop { host } => format!("{host} leads back to itself"),
            EditError::AliasTooLong { host } => {
                format!("{host} leads through more than {ALIAS_CHAIN_MAX} aliases")
            }
            EditError::RedirectLoop { host, to } => format!(
                "{host} would be redirected for ever: {to} leads back to it. To redirect http requests \
                 alone, name the rule http://HOST"
            ),
            EditError::RedirectTarget { to, .. } => format!(
                "redirect_to of redirect is {to:?}; expected a host, or an address that starts with \
                 http:// or https://"
            ),
        }
    }
}

/// `host:code: sentence`.
impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.host(), self.code(), self.sentence())
    }
}

impl std::error::Error for EditError {}
