//! Rights of the clients of the management API: the token that a client shows, the role and the
//! hosts that come with it, and the changes that a role may make.
//!
//! This module is pure: it takes texts and tables, and returns decisions. None of its messages
//! holds a token, nor a word of a line that may be a token in the wrong column.

use std::collections::HashMap;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use crate::limits;
use crate::table::{Action, Rule, Snapshot, host};

/// A bearer token.
#[derive(Clone)]
pub(crate) struct Token(Box<str>);

impl Token {
    /// Reads the token of a file with a single token: the text without white space around it.
    /// `None`: the text is empty, or has a character that is not printable ASCII.
    pub(crate) fn parse(text: &str) -> Option<Token> {
        let token = text.trim();
        let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Token(token.into()))
    }

    fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// The text of the token, for a daemon that takes over.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Role of a token. Each role may do all that the role before it may do.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Role {
    /// Read all that the API shows.
    Read,
    /// Let hosts spin and flip them back, and change weights.
    Operate,
    /// Change anything.
    Admin,
}

impl Role {
    const ALL: [Role; 3] = [Role::Read, Role::Operate, Role::Admin];

    /// Name of the role in the file.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Admin => "admin",
        }
    }

    fn of(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// Rights that come with a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Grant {
    /// Name of the token's holder. `None`: the only token is that of `management_token_file`, or
    /// requests need no token.
    name: Option<Box<str>>,
    role: Role,
    /// Suffix that all hosts of the grant have. `None`: the grant is for every host.
    suffix: Option<Box<str>>,
}

/// Reason why a grant does not cover a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Forbidden {
    /// Host at fault, if the reason is about one host.
    pub(crate) host: Option<String>,
    pub(crate) code: &'static str,
    pub(crate) sentence: String,
}

impl Forbidden {
    fn of_host(host: &str, code: &'static str, sentence: String) -> Forbidden {
        Forbidden { host: Some(host.to_owned()), code, sentence }
    }

    fn of_all(code: &'static str, sentence: String) -> Forbidden {
        Forbidden { host: None, code, sentence }
    }
}

/// Code of a request for a host outside the grant's suffix.
const OUTSIDE: &str = "outside_suffix";
/// Code of a request that the grant's role may not make.
const ROLE: &str = "role_insufficient";

impl Grant {
    /// Grant of every right, without a name.
    pub(crate) const EVERYTHING: Grant = Grant { name: None, role: Role::Admin, suffix: None };

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Suffix that all hosts of the grant have.
    pub(crate) fn suffix(&self) -> Option<&str> {
        self.suffix.as_deref()
    }

    /// Whether the grant covers a rule of this canonical name. It covers the suffix itself and all
    /// names below it, with any scheme.
    pub(crate) fn covers(&self, name: &str) -> bool {
        let Some(suffix) = &self.suffix else { return true };
        let host = name.split_once("://").map_or(name, |(_, host)| host);
        let rest = host.strip_suffix(&**suffix);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Checks that the client may ask about a host.
    pub(crate) fn check_host(&self, name: &str) -> Result<(), Forbidden> {
        if self.covers(name) {
            return Ok(());
        }
        let sentence = format!("the token is for hosts under {}", self.suffix().unwrap_or("none"));
        Err(Forbidden::of_host(name, OUTSIDE, sentence))
    }

    /// Checks what can be checked of a change before its body is read.
    pub(crate) fn check_change(&self, is_whole: bool) -> Result<(), Forbidden> {
        let role = self.role.as_str();
        match (self.role, &self.suffix) {
            (Role::Read, _) => {
                Err(Forbidden::of_all(ROLE, format!("the role {role} may change nothing")))
            }
            (Role::Operate, _) if is_whole => {
                let sentence = format!("the role {role} may not replace the whole table");
                Err(Forbidden::of_all(ROLE, sentence))
            }
            (_, Some(suffix)) if is_whole => {
                let sentence = format!(
                    "the token is for hosts under {suffix}, and PUT replaces the whole table: send \
                     these hosts by PATCH"
                );
                Err(Forbidden::of_all(OUTSIDE, sentence))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the client may decide about the daemon as a whole.
    pub(crate) fn check_daemon(&self) -> Result<(), Forbidden> {
        if self.role < Role::Admin {
            let role = self.role.as_str();
            return Err(Forbidden::of_all(ROLE, format!("the role {role} may not decide that")));
        }
        match &self.suffix {
            None => Ok(()),
            Some(suffix) => {
                let sentence =
                    format!("the token is for hosts under {suffix}, and that is for all");
                Err(Forbidden::of_all(OUTSIDE, sentence))
            }
        }
    }

    /// Checks a change against the table to which it applies.
    pub(crate) fn check_edits(
        &self,
        edits: &[(String, Option<Rule>)],
        is_whole: bool,
        table: &Snapshot,
    ) -> Result<(), Forbidden> {
        if self.role == Role::Admin && self.suffix.is_none() {
            return Ok(());
        }
        self.check_change(is_whole)?;
        edits.iter().try_for_each(|(name, rule)| self.check_edit(name, rule.as_ref(), table))
    }

    fn check_edit(
        &self,
        name: &str,
        rule: Option<&Rule>,
        table: &Snapshot,
    ) -> Result<(), Forbidden> {
        self.check_host(name)?;
        if let Some(target) = rule.and_then(aliased)
            && !self.covers(target)
        {
            // The table does not let the target of an alias be deleted, so an alias would keep the
            // target's owner from deleting it.
            let suffix = self.suffix().unwrap_or_default();
            let sentence =
                format!("it is an alias of {target}, and the token is for hosts under {suffix}");
            return Err(Forbidden::of_host(name, OUTSIDE, sentence));
        }
        if self.role < Role::Admin && !is_operation(table.get(name), rule) {
            let sentence = format!(
                "the role {} may let a host spin with its rule in `then`, put that rule back, and change \
                 weights; this is another change",
                self.role.as_str()
            );
            return Err(Forbidden::of_host(name, ROLE, sentence));
        }
        Ok(())
    }
}

/// Target of a rule that is an alias, or that spins and keeps an alias as its `then`.
fn aliased(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Action::Alias(target) => Some(target),
        Action::Spin(spin) => aliased(spin.then()?),
        _ => None,
    }
}

/// Whether the role `operate` may make a change of a rule. It may change nothing; change to `spin`,
/// with the rule from before as its `then`; change the limits of a `spin`; change back to the
/// `then`; and change weights. `wake` may not change, because the daemon sends a POST to its
/// address; nor may the lists of clients (`allow`, `deny`). A change to `spin` may leave them out.
fn is_operation(before: Option<&Rule>, after: Option<&Rule>) -> bool {
    let (before, after) = match (before, after) {
        (Some(before), Some(after)) => (before, after),
        (before, after) => return before.is_none() && after.is_none(),
    };
    let is_same = |one: &Rule, other: &Rule| one == other || differ_in_weights(one, other);
    match (&before.action, &after.action) {
        (Action::Spin(old), Action::Spin(new)) => {
            old.then() == new.then()
                && old.wake() == new.wake()
                && before.action.access() == after.action.access()
                && before.match_subdomains == after.match_subdomains
        }
        (_, Action::Spin(new)) => {
            new.then() == Some(before)
                && (new.wake().is_none() || new.wake() == wake_of(before))
                && (after.action.access().is_none()
                    || after.action.access() == before.action.access())
                && before.match_subdomains == after.match_subdomains
        }
        (Action::Spin(old), _) => old.then().is_some_and(|then| is_same(then, after)),
        _ => is_same(before, after),
    }
}

fn wake_of(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Action::Proxy(proxy) => proxy.wake(),
        _ => None,
    }
}

/// Whether two rules are both `proxy`, and equal except for their weights.
fn differ_in_weights(one: &Rule, other: &Rule) -> bool {
    let bare = |rule: &Rule| {
        let mut json = rule.to_json();
        if let Some(arguments) = json[1].as_object_mut() {
            arguments.remove("weights");
        }
        json
    };
    let are_proxies = [one, other].iter().all(|rule| matches!(rule.action, Action::Proxy(_)));
    are_proxies && bare(one) == bare(other)
}

/// Tokens that the API accepts. If there are none, requests need no token.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    /// The token of `management_token_file`.
    single: Option<(Token, Arc<Grant>)>,
    /// Tokens of `management_tokens_file`.
    listed: Vec<(Token, Arc<Grant>)>,
}

/// A line in the file of tokens that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WrongLine {
    /// Number of the line; 0: the problem is the file as a whole.
    pub(crate) line: usize,
    pub(crate) problem: String,
}

const EXPECTED: &str = "expected NAME ROLE TOKEN [SUFFIX]";

impl Tokens {
    /// Reads lines of `NAME ROLE TOKEN [SUFFIX]`. A `#` at the beginning of a word starts a
    /// comment.
    pub(crate) fn parse(text: &str) -> Result<Tokens, WrongLine> {
        let mut tokens = Tokens::default();
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut names: HashMap<Option<Box<str>>, (usize, Arc<Grant>)> = HashMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let wrong = |problem: String| WrongLine { line, problem };
            let words = text.split_whitespace().take_while(|word| !word.starts_with('#'));
            let words: Vec<&str> = words.collect();
            if words.is_empty() {
                continue;
            }
            let (token, grant) = listed(&words).map_err(wrong)?;
            if let Some(at) = lines.insert(token.as_str().to_owned(), line) {
                return Err(wrong(format!("its token is that of line {at}, too")));
            }
            if tokens.listed.len() == limits::TOKENS_MAX {
                return Err(wrong(format!("expected at most {} tokens", limits::TOKENS_MAX)));
            }
            // A holder may have two tokens, so that a new one can replace the old one, but both
            // must have the same rights.
            let grant = Arc::new(grant);
            let (at, known) =
                names.entry(grant.name.clone()).or_insert_with(|| (line, grant.clone()));
            if *known != grant {
                let problem = format!("line {at} gives this name another role or suffix");
                return Err(wrong(problem));
            }
            tokens.listed.push((token, grant));
        }
        if tokens.listed.is_empty() {
            return Err(WrongLine { line: 0, problem: format!("it has no token: {EXPECTED}") });
        }
        Ok(tokens)
    }

    /// Adds the token of `management_token_file`, which has every right. An error if the other file
    /// lists it too.
    pub(crate) fn with_single(self, token: Option<Token>) -> Result<Tokens, String> {
        let Some(token) = token else { return Ok(Tokens { single: None, ..self }) };
        if let Some((_, grant)) =
            self.listed.iter().find(|(other, _)| other.matches(token.0.as_bytes()))
        {
            let name = grant.name().unwrap_or_default();
            return Err(format!("the token of {name} is that of management_token_file, too"));
        }
        Ok(Tokens { single: Some((token, Arc::new(Grant::EVERYTHING))), ..self })
    }

    /// Separates the tokens of the two files.
    pub(crate) fn apart(self) -> (Option<Token>, Tokens) {
        (self.single.map(|(token, _)| token), Tokens { single: None, listed: self.listed })
    }

    fn all(&self) -> impl Iterator<Item = &(Token, Arc<Grant>)> {
        self.single.iter().chain(&self.listed)
    }

    /// Whether requests need a token.
    pub(crate) fn are_needed(&self) -> bool {
        self.all().next().is_some()
    }

    /// Finds the rights of a token. Every known token is compared, each in constant time.
    pub(crate) fn find(&self, given: &[u8]) -> Option<Arc<Grant>> {
        self.all().fold(None, |found, (token, grant)| match token.matches(given) {
            true => Some(grant.clone()),
            false => found,
        })
    }

    /// Returns the lines of the file, for a daemon that takes over.
    pub(crate) fn to_text(&self) -> String {
        let line = |(token, grant): &(Token, Arc<Grant>)| {
            let Grant { name, role, suffix } = &**grant;
            let (name, suffix) = (name.as_deref()?, suffix.as_deref().unwrap_or_default());
            Some(format!("{name} {} {} {suffix}\n", role.as_str(), token.0))
        };
        self.listed.iter().filter_map(line).collect()
    }
}

/// Reads token and grant from the words of one line.
fn listed(words: &[&str]) -> Result<(Token, Grant), String> {
    let (name, role, token, suffix) = match words {
        [name, role, token] => (name, role, token, None),
        [name, role, token, suffix] => (name, role, token, Some(suffix)),
        _ => return Err(format!("{EXPECTED}, found {} words", words.len())),
    };
    let is_name = name.len() <= limits::TOKEN_NAME_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte));
    if !is_name {
        return Err(format!(
            "its name may hold letters, digits and - _ . @ +, and {} of them",
            limits::TOKEN_NAME_BYTES_MAX
        ));
    }
    let role = Role::of(role)
        .ok_or_else(|| format!("its role is none of {}", Role::ALL.map(Role::as_str).join(", ")))?;
    let token = Token::parse(token).ok_or("its token has characters that are not ASCII")?;
    let suffix = suffix.map(|suffix| host::name(suffix));
    let suffix = suffix.transpose().map_err(|error| format!("its suffix: {}", error.sentence()))?;
    let (name, suffix) = (Some((*name).into()), suffix.map(Into::into));
    Ok((token, Grant { name, role, suffix }))
}

#[cfg(test)]
mod tests;
