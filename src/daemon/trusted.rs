//! The networks of `trusted_sources`: those in the configuration, and those in the files that it
//! names. A reload reads these files again.

use std::path::Path;

use super::Problems;
use crate::config::Config;
use crate::limits;
use crate::network::{Network, NetworkError, NetworkMap};

/// Reads all networks. `Err` has every problem with them.
pub(super) fn read(config: &Config) -> Result<NetworkMap<()>, Problems> {
    let mut networks = config.trusted_sources.networks.clone();
    let mut problems = Vec::new();
    for path in &config.trusted_sources.files {
        match read_file(path) {
            Ok(found) => networks.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(NetworkMap::new(networks.into_iter().map(|network| (network, ()))))
    } else {
        Err(problems)
    }
}

/// Returns problems with the files that this user can't read.
pub(super) fn unreadable(config: &Config) -> Vec<String> {
    let files = config.trusted_sources.files.iter();
    let problem = |path: &Path| {
        let error = std::fs::File::open(path).err()?;
        Some(format!("trusted_sources = @{}: {error}", path.display()))
    };
    files.filter_map(|path| problem(path)).collect()
}

fn read_file(path: &Path) -> Result<Vec<Network>, Problems> {
    let named = format!("trusted_sources = @{}", path.display());
    let one = |problem: &str| vec![format!("{named}: {problem}")];
    let length = std::fs::metadata(path).map_or(0, |found| found.len());
    if limits::TRUSTED_FILE_BYTES_MAX < length {
        return Err(one("the file is too long for a list of networks"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| one(&error.to_string()))?;
    let networks = parse(&text, &path.display().to_string())?;
    match networks.is_empty() {
        // A program that failed to fetch the list may leave a file like this.
        true => Err(one("there is no network in it")),
        false => Ok(networks),
    }
}

/// Reads one network from each line; `#` begins a comment.
fn parse(text: &str, file: &str) -> Result<Vec<Network>, Problems> {
    let (mut networks, mut problems) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match Network::parse(line) {
            // Bits behind the prefix are ignored: the prefix says which network is meant.
            Ok(network) | Err(NetworkError::HostBits(network)) => networks.push(network),
            Err(NetworkError::Syntax) if problems.len() == limits::TRUSTED_PROBLEMS_TOLD_MAX => {
                problems.push(format!("trusted_sources: {file}: and more lines like these"));
                break;
            }
            Err(NetworkError::Syntax) => problems.push(format!(
                "trusted_sources: {file}:{}: {line:?}: expected an address or a network, as 192.0.2.0/24",
                index + 1
            )),
        }
    }
    if problems.is_empty() { Ok(networks) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_networks_and_comments() {
        let text = "# the CDN\n192.0.2.0/24 # Paris\r\n\n  2001:db8::/32\n198.51.100.7";
        let found = parse(text, "cdn.txt").expect("networks");
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]);
        assert_eq!(parse("", "cdn.txt"), Ok(Vec::new()));
    }

    #[test]
    fn wrong_lines_are_named() {
        let problems = parse("192.0.2.0/24\n<html>\n\n192.0.2.0/33", "cdn.txt").expect_err("wrong");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with("trusted_sources: cdn.txt:2: \"<html>\": expected"),
            "{problems:?}"
        );
        assert!(problems[1].starts_with("trusted_sources: cdn.txt:4: "), "{problems:?}");
        let many = parse(&"x\n".repeat(1000), "cdn.txt").expect_err("wrong");
        assert_eq!(many.len(), limits::TRUSTED_PROBLEMS_TOLD_MAX + 1);
    }
}
