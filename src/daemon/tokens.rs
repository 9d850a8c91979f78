//! The files of tokens. They are read while the process may still be root, so they need not be
//! readable for other users. No message repeats any part of them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing::warn;

use crate::config::Config;
use crate::control::{Token, Tokens};

const SINGLE: &str = "management_token_file";
const LISTED: &str = "management_tokens_file";

/// Reads the tokens. If a file can't be read for lack of rights, the tokens `given` by the daemon
/// before are used.
pub(super) fn read(config: &Config, given: Tokens) -> Result<Tokens, String> {
    let (given_single, given_listed) = given.apart();
    let single = match &config.management_token_file {
        Some(path) => Some(single(path, given_single)?),
        None => None,
    };
    let listed = match &config.management_tokens_file {
        Some(path) => listed(path, given_listed)?,
        None => Tokens::default(),
    };
    listed.with_single(single).map_err(|problem| format!("{LISTED}: {problem}"))
}

/// Reads a file again if its key still has the value that is in force. The tokens of other files
/// stay as they are.
pub(super) fn read_again(
    in_force: &Config,
    new: &Config,
    tokens: &Tokens,
) -> Result<Tokens, String> {
    let (mut single_token, mut listed_tokens) = tokens.clone().apart();
    if let Some(path) = &new.management_token_file
        && new.management_token_file == in_force.management_token_file
    {
        single_token = Some(single(path, None)?);
    }
    if let Some(path) = &new.management_tokens_file
        && new.management_tokens_file == in_force.management_tokens_file
    {
        listed_tokens = listed(path, Tokens::default())?;
    }
    listed_tokens.with_single(single_token).map_err(|problem| format!("{LISTED}: {problem}"))
}

/// Returns the paths of the files, each with its key.
pub(super) fn paths(config: &Config) -> impl Iterator<Item = (&'static str, &Path)> {
    let single = config.management_token_file.as_deref().map(|path| (SINGLE, path));
    let listed = config.management_tokens_file.as_deref().map(|path| (LISTED, path));
    single.into_iter().chain(listed)
}

fn single(path: &Path, given: Option<Token>) -> Result<Token, String> {
    let problem = |problem: &str| format!("{SINGLE} = {}: {problem}", path.display());
    let Some(bytes) = bytes(SINGLE, path, given.is_some())? else {
        return given.ok_or_else(|| problem("it can't be read"));
    };
    let token = std::str::from_utf8(&bytes).ok().and_then(Token::parse);
    let expected = "expected one line of printable ASCII without spaces as the token: \
         head -c 24 /dev/urandom | base64 makes one";
    token.ok_or_else(|| problem(expected))
}

fn listed(path: &Path, given: Tokens) -> Result<Tokens, String> {
    let Some(bytes) = bytes(LISTED, path, given.are_needed())? else { return Ok(given) };
    let wrong = |line: usize, problem: &str| match line {
        0 => format!("{LISTED} = {}: {problem}", path.display()),
        line => format!("{LISTED} = {}:{line}: {problem}", path.display()),
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        wrong(1 + memchr::memchr_iter(b'\n', before).count(), "expected text in UTF-8")
    })?;
    Tokens::parse(text).map_err(|error| wrong(error.line, &error.problem))
}

/// Reads a file; `None`: the file can't be read, and the tokens of the daemon before are used.
fn bytes(key: &str, path: &Path, is_given: bool) -> Result<Option<Vec<u8>>, String> {
    let problem = |problem: String| format!("{key} = {}: {problem}", path.display());
    let bytes = match fs::read(path) {
        Err(error) if is_given && error.kind() == io::ErrorKind::PermissionDenied => {
            let user = nix::unistd::geteuid();
            warn!(
                "{}: uid {user} can't read it: the token stays that of the daemon before",
                problem(error.to_string())
            );
            return Ok(None);
        }
        bytes => bytes.map_err(|error| problem(error.to_string()))?,
    };
    let mode = path.metadata().map_or(0, |metadata| metadata.mode());
    if mode & 0o007 != 0 {
        warn!("{}", problem("others may read it too: chmod o= it".to_owned()));
    }
    Ok(Some(bytes))
}
