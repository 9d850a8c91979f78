//! Options that several commands have.

use std::path::PathBuf;

use clap::Args;

/// A file of rules that is looked at.
#[derive(Args, Debug)]
pub struct Looked {
    /// JSON as `dump` prints it, or a state file; - is standard input
    pub file: PathBuf,
    /// The file is one for `load --merge`: it changes only the hosts in it, and null deletes one
    #[arg(long)]
    pub merge: bool,
}

/// Options that every change has.
#[derive(Args, Debug)]
pub struct Edit {
    /// Check it and change nothing; `load` prints the difference
    #[arg(long)]
    pub dry_run: bool,
    /// Only if the table still has this ETag (`get` and `dump --etag` tell it)
    #[arg(long, value_name = "ETAG")]
    pub if_match: Option<String>,
}

/// Whether a change is waited for until its old backends are free of requests.
#[derive(Args, Debug)]
// The command `drain` has a group of the same name.
#[group(skip)]
pub struct Drain {
    /// Return only when no request is left with the backends that were in use before
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// How long to wait at most: a number with ms, s, m or h
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "wait")]
    pub timeout: String,
}

/// Option of changes that are conditional by themselves.
#[derive(Args, Debug)]
pub struct Trial {
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
