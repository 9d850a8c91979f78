//! Texts made from the table of keys: the example file and the manual. Both lie in the repository,
//! and a test compares them.

use std::fmt::Write as _;

use super::key::Key;
use super::keys::KEYS;

/// The example configuration file: every key with its default, commented out.
pub fn example_file() -> String {
    let mut out = String::from(
        "# Mantrid's configuration: `key = value` lines; `#` starts a comment anywhere in a line.\n\
         # Every key is here, with its default where it has one. What is wrong with a file, and all\n\
         # of it at once, says: mantrid --check -c FILE\n",
    );
    for key in KEYS {
        out.push('\n');
        paragraph(key.meaning, "# ", &mut out);
        if let Some(danger) = key.danger {
            paragraph(&format!("Beware: {}", lower_first(danger)), "# ", &mut out);
        }
        let again = if key.repeatable { "; one a line, repeatable" } else { "" };
        paragraph(&format!("Takes {}{again}.", key.takes), "# ", &mut out);
        let defaults: Vec<&str> = defaults(key).collect();
        if defaults.is_empty() {
            let _ = writeln!(out, "# Default: {}.\n#{} =", key.default, key.name);
        }
        for default in defaults {
            let _ = writeln!(out, "#{} = {default}", key.name);
        }
    }
    out
}

/// The manual page of the configuration, in Markdown.
pub fn manual() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Made from the table of keys in `src/config/keys.rs`; a test compares the two.\n\n\
         The file has `key = value` lines. `#` starts a comment anywhere in a line; keys may be written\n\
         in upper or lower case; a key that is not known is refused. A key that is not repeatable may\n\
         stand there twice only with the same value. `-o key=value` on the command line takes the same\n\
         keys and wins over the file; for a repeatable key, what is given with `-o` takes the place of\n\
         all that the file has. Durations are whole numbers with a unit: `ms`, `s`, `m` or `h`; sizes\n\
         are bytes, or end in `k` or `m`.\n\n\
         `mantrid --check` tells all that is wrong at once, each with file and line; what a start\n\
         would stop at makes the exit code 1. Ports and sockets of a daemon that runs on the same\n\
         `state_file` count as free. SIGHUP has the file read again: the column *in force* says\n\
         which keys then change at once; for the others the log names the keys that wait for the\n\
         next start or upgrade (SIGUSR2).\n\n\
         | key | default | in force |\n| --- | --- | --- |\n",
    );
    for key in KEYS {
        let anchor = key.name;
        let again = if key.repeatable { " (repeatable)" } else { "" };
        let _ =
            writeln!(out, "| [`{anchor}`](#{anchor}){again} | {} | {} |", key.default, key.when());
    }
    for key in KEYS {
        let _ = write!(out, "\n## `{}`\n\n", key.name);
        paragraph(key.meaning, "", &mut out);
        if let Some(danger) = key.danger {
            out.push('\n');
            paragraph(&format!("**Beware:** {}", lower_first(danger)), "", &mut out);
        }
        let again = if key.repeatable { " (repeatable)" } else { "" };
        let _ = write!(out, "\nTakes {}{again}. Default: {}.", key.takes, key.default);
        let _ = writeln!(out, " A change is in force {}.", key.when());
    }
    out
}

/// mantrid.conf(5), in roff.
pub fn manual_page() -> String {
    use clap_mangen::roff::{Roff, bold, italic, roman};
    let mut page = Roff::new();
    page.control("TH", ["mantrid.conf", "5", "", "Mantrid", "Mantrid's manual"]);
    page.control("SH", ["NAME"]);
    page.text([roman("mantrid.conf - the configuration of mantrid(8)")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "/etc/mantrid/mantrid.conf has lines of the form `key = value`; # starts a comment anywhere in a \
         line. Durations are whole numbers with a unit: ms, s, m or h; sizes are bytes, or end in k or m. \
         `mantrid --check` tells all that is wrong with a file at once; `-o key=value` on the command line \
         wins over it. SIGHUP has it read again.",
    )]);
    page.control("SH", ["KEYS"]);
    for key in KEYS {
        page.control("TP", []);
        page.text([bold(key.name)]);
        page.text([roman(key.meaning)]);
        if let Some(danger) = key.danger {
            page.text([bold("Beware: "), roman(lower_first(danger))]);
        }
        let again = if key.repeatable { "; repeatable" } else { "" };
        page.text([
            italic("Takes "),
            roman(format!("{}{again}. ", key.takes)),
            italic("Default: "),
            roman(format!("{}. A change is in force {}.", key.default, key.when())),
        ]);
    }
    page.render()
}

/// The defaults that can be written as values; the others are described.
fn defaults(key: &Key) -> impl Iterator<Item = &'static str> {
    let written = !key.default.contains(' ') || key.default.contains(" and ");
    key.default.split(" and ").filter(move |word| written && *word != "none")
}

fn lower_first(sentence: &str) -> String {
    let mut rest = sentence.chars();
    let first = rest.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(rest).collect()
}

/// Writes words in lines of at most 100 columns.
fn paragraph(text: &str, prefix: &str, out: &mut String) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column == 0 {
            out.push_str(prefix);
            column = prefix.len();
        } else if 100 < column + 1 + word.len() {
            out.push('\n');
            out.push_str(prefix);
            column = prefix.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out.push('\n');
}
