//! A file of rules, as `load`, `check` and `diff` take it: an object of rules by host, or a state
//! file, whose `hosts` are such an object. One pass checks the form of the file and stores nothing.
//! The meaning of the rules is not checked here.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::failure::say;

/// Longest body that the daemon takes.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// Most hosts that an error names because the file has them more than once; the rest are counted.
const TWICE_TOLD_MAX: usize = 10;

/// A file whose form is right.
pub struct TableFile {
    /// Name of the file, for messages.
    pub name: String,
    source: Source,
    found: Found,
}

impl TableFile {
    /// Opens a file, or standard input for `-`. With `merge`, a rule may be null. The error is a
    /// sentence with the name of the file.
    pub fn open(path: &Path, merge: bool) -> Result<TableFile, String> {
        let name = shown(path);
        let of_file = |error: io::Error| format!("{name}: {error}");
        let mut source = Source::open(path).map_err(of_file)?;
        let found = check(source.reader().map_err(of_file)?, merge)
            .map_err(|error| format!("{name}: {error}"))?;
        fits(found.part.end - found.part.start).map_err(|why| format!("{name}: {why}"))?;
        found.twice.lines().iter().for_each(|line| say(&format!("{name}: {line}")));
        Ok(TableFile { name, source, found })
    }

    /// Number of rules in the file.
    pub fn rules(&self) -> u64 {
        self.found.rules
    }

    /// Length of the object of rules.
    pub fn bytes(&self) -> u64 {
        self.found.part.end - self.found.part.start
    }

    /// The object of rules, as it stands.
    pub fn into_reader(self) -> Result<Box<dyn Read + Send>, String> {
        let TableFile { name, source, found } = self;
        source.part(&found.part).map_err(|error| format!("{name}: {error}"))
    }

    /// The object of rules in memory.
    pub fn into_text(self) -> Result<Vec<u8>, String> {
        let (name, bytes) = (self.name.clone(), self.bytes());
        let mut text = Vec::new();
        let read = self.into_reader()?.take(bytes).read_to_end(&mut text);
        read.map(|_| text).map_err(|error| format!("{name}: {error}"))
    }
}

fn shown(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

/// Checks that the daemon takes a body of this length; the error says what to do if it does not.
fn fits(bytes: u64) -> Result<(), String> {
    if bytes <= BODY_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "more than {} MiB of rules, which is what the daemon takes at once: load a part, then add \
         the others with --merge",
        BODY_BYTES_MAX >> 20
    ))
}

/// Input that can be read twice: a file, or the bytes of a pipe.
enum Source {
    File(File),
    Memory(Vec<u8>),
}

impl Source {
    fn open(path: &Path) -> io::Result<Source> {
        if path == Path::new("-") {
            return Source::collect(io::stdin().lock());
        }
        let file = File::open(path)?;
        if file.metadata()?.is_file() { Ok(Source::File(file)) } else { Source::collect(file) }
    }

    /// Reads a pipe into memory, because a pipe can't be read twice.
    fn collect(reader: impl Read) -> io::Result<Source> {
        let mut bytes = Vec::new();
        reader.take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        fits(bytes.len() as u64).map_err(|why| io::Error::new(io::ErrorKind::FileTooLarge, why))?;
        Ok(Source::Memory(bytes))
    }

    /// Reads the input from its beginning.
    fn reader(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Source::File(file) => {
                file.rewind()?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            }
            Source::Memory(bytes) => Box::new(Cursor::new(bytes)),
        })
    }

    /// Reads a part of the input.
    fn part(self, part: &Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Source::File(mut file) => {
                file.seek(SeekFrom::Start(part.start))?;
                Box::new(file)
            }
            Source::Memory(bytes) => {
                let mut cursor = Cursor::new(bytes);
                cursor.set_position(part.start);
                Box::new(cursor)
            }
        })
    }
}

/// Position of the rules in a file, and their number.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    part: Range<u64>,
    rules: u64,
    twice: Twice,
}

/// Hosts that the file has more than once: the first few, as they are spelt the second time, and
/// their number.
#[derive(Debug, Default, PartialEq, Eq)]
struct Twice {
    first: Vec<String>,
    count: usize,
}

impl Twice {
    fn add(&mut self, host: String) {
        self.count += 1;
        if self.first.len() < TWICE_TOLD_MAX {
            self.first.push(host);
        }
    }

    fn lines(&self) -> Vec<String> {
        let line = |host: &String| format!("{host:?} is named twice: the last rule counts");
        let mut lines: Vec<String> = self.first.iter().map(line).collect();
        if let Some(more @ 1..) = self.count.checked_sub(lines.len()) {
            lines.push(format!("{more} more hosts are named twice"));
        }
        lines
    }
}

/// The names of a table. Only a number is kept of each, so a million names take a few megabytes.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    names: HashSet<u64>,
}

impl Seen {
    /// Whether no earlier host has the same name, even in another spelling.
    fn is_first(&mut self, host: &str) -> bool {
        let lower = host.to_lowercase();
        let at = lower.find("://").map_or(0, |at| at + 3);
        let (prefix, name) = lower.split_at(at);
        let name = name.strip_suffix('.').unwrap_or(name);
        let ascii = match name.is_ascii() {
            true => Cow::Borrowed(name),
            false => idna::domain_to_ascii(name).map_or(Cow::Borrowed(name), Cow::Owned),
        };
        self.names.insert(self.hasher.hash_one((prefix, ascii)))
    }
}

/// Counts the bytes that the parser has taken. The parser reads byte by byte and, around objects,
/// never ahead.
struct Counting<'a, R> {
    reader: R,
    taken: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(room)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

/// Looks for an object of rules, or for a state file, whose `hosts` are such an object. With
/// `merge`, a rule may be null.
fn check(reader: impl Read, merge: bool) -> serde_json::Result<Found> {
    let taken = Cell::new(0);
    let mut json = serde_json::Deserializer::from_reader(Counting { reader, taken: &taken });
    let mut hosts = None;
    let twice = RefCell::default();
    let table = Table { merge, taken: &taken, twice: &twice, hosts: Some(&mut hosts) };
    let rules = table.deserialize(&mut json)?;
    let whole = Found { part: 0..taken.get(), rules, twice: twice.into_inner() };
    json.end()?;
    Ok(hosts.unwrap_or(whole))
}

/// An object of rules. At the top, an object whose key `hosts` holds an object is a state file,
/// because a rule is never an object.
struct Table<'a> {
    merge: bool,
    taken: &'a Cell<u64>,
    twice: &'a RefCell<Twice>,
    hosts: Option<&'a mut Option<Found>>,
}

impl<'de> DeserializeSeed<'de> for Table<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<u64, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Table<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an object of rules, {\"HOST\": [action, arguments, match_subdomains], …}, \
             or a state file",
        )
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<u64, A::Error> {
        let mut rules = 0;
        let mut first_not_rule = None;
        let mut seen = Seen::default();
        while let Some(host) = map.next_key::<String>()? {
            let (merge, taken, twice) = (self.merge, self.taken, self.twice);
            let may_hold_hosts = self.hosts.is_some() && host == "hosts";
            let before = taken.get();
            match map.next_value_seed(Entry { merge, taken, twice, may_hold_hosts })? {
                Shape::Rule => {
                    rules += 1;
                    if !seen.is_first(&host) {
                        twice.borrow_mut().add(host);
                    }
                }
                Shape::Hosts { rules, begins } => {
                    if let Some(hosts) = self.hosts.as_deref_mut() {
                        debug_assert!(before < begins, "the object begins behind its key");
                        let twice = twice.take();
                        *hosts = Some(Found { part: begins..taken.get(), rules, twice });
                    }
                }
                Shape::Other(what) => {
                    first_not_rule.get_or_insert((host, what));
                }
            }
        }
        // The other values in a state file (stats, sequence) are no rules, and need not be.
        let is_state = self.hosts.is_some_and(|hosts| hosts.is_some());
        match first_not_rule {
            Some((host, what)) if !is_state => Err(A::Error::custom(format_args!(
                "{host:?}: expected a rule, [action, arguments, match_subdomains], found {what}"
            ))),
            _ => Ok(rules),
        }
    }
}

/// Kind of value behind a key.
enum Shape {
    Rule,
    Hosts { rules: u64, begins: u64 },
    Other(&'static str),
}

/// The value of a key.
struct Entry<'a> {
    merge: bool,
    taken: &'a Cell<u64>,
    twice: &'a RefCell<Twice>,
    may_hold_hosts: bool,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Shape, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rule, [action, arguments, match_subdomains]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Shape::Rule)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        // Nothing but the brace itself was taken so far.
        let begins = self.taken.get() - 1;
        if self.may_hold_hosts {
            let Entry { merge, taken, twice, .. } = self;
            let table = Table { merge, taken, twice, hosts: None };
            return Ok(Shape::Hosts { rules: table.visit_map(map)?, begins });
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Shape::Other("an object"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Shape, E> {
        Ok(if self.merge { Shape::Rule } else { Shape::Other("null, which only --merge takes") })
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other("true or false"))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other("a number"))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other("a number"))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other("a number"))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Other("text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn found(text: &str, merge: bool) -> (&str, u64) {
        let found = check(text.as_bytes(), merge).unwrap_or_else(|error| panic!("{text}: {error}"));
        (&text[found.part.start as usize..found.part.end as usize], found.rules)
    }

    #[test]
    fn tables_are_sent_as_they_stand() {
        for (text, rules) in [
            ("{}", 0),
            (r#"{"a": ["spin", {}, true]}"#, 1),
            (r#"{"a": ["spin", {}, true], "hosts": ["spin", {"x": {"hosts": {}}}, true]}"#, 2),
            (" {\n\t\"\\u0061\" : [ ] }", 1),
        ] {
            assert_eq!(found(text, false), (text, rules));
        }
        assert_eq!(
            found("{\"a\": []} \n", false),
            ("{\"a\": []}", 1),
            "white space behind it goes"
        );
    }

    #[test]
    fn hosts_of_a_state_file_are_sent() {
        let hosts = r#"{"a": ["spin", {}, true], "hosts": ["spin", {}, false]}"#;
        for text in [
            format!(r#"{{"hosts": {hosts}, "stats": {{}}, "sequence": 12}}"#),
            format!(r#"{{"stats": {{"a": {{"open_requests": 0}}}},"hosts":{hosts}}}"#),
            format!("{{\"sequence\":1,\"hosts\"\n:\t {hosts} , \"x\": [null]}}\n"),
        ] {
            assert_eq!(found(&text, false), (hosts, 2), "{text}");
        }
        assert_eq!(found(r#"{"hosts": {}, "stats": {}}"#, false), ("{}", 0));
    }

    #[test]
    fn a_host_that_is_named_twice_is_told() {
        for (text, merge, twice) in [
            (r#"{"a": [], "b": [], "http://a": [], "a.b": []}"#, false, &[][..]),
            (r#"{"a": [], "b": [], "a": [], "a": []}"#, false, &["a", "a"]),
            (r#"{"a.com": null, "A.Com.": []}"#, true, &["A.Com."]),
            (r#"{"http://a": [], "HTTP://A": []}"#, false, &["HTTP://A"]),
            (
                r#"{"bücher.example": [], "xn--bcher-kva.example": []}"#,
                false,
                &["xn--bcher-kva.example"],
            ),
            (r#"{"hosts": {"a": [], "A": []}, "stats": {"b": {}, "b": {}}}"#, false, &["A"]),
        ] {
            let found =
                check(text.as_bytes(), merge).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found.twice.first, twice, "{text}");
        }
        let mut many = Twice::default();
        (0..TWICE_TOLD_MAX + 3).for_each(|n| many.add(n.to_string()));
        let lines = many.lines();
        assert_eq!(lines.len(), TWICE_TOLD_MAX + 1);
        assert_eq!(lines.last().map(String::as_str), Some("3 more hosts are named twice"));
    }

    #[test]
    fn null_deletes_where_changes_are_merged() {
        let text = r#"{"a": null, "b": ["spin", {}, true]}"#;
        assert_eq!(found(text, true), (text, 2));
        let error = check(text.as_bytes(), false).expect_err("null without --merge");
        assert!(error.to_string().contains("--merge"), "{error}");
    }

    #[test]
    fn bad_files_are_not_sent() {
        for (text, words) in [
            ("", "EOF"),
            ("[]", "expected an object of rules"),
            ("null", "expected an object of rules"),
            ("{", "EOF"),
            (r#"{"a": ["spin", {}, true]"#, "EOF"),
            (r#"{"a": ["spin", {}, true],}"#, "trailing comma"),
            (r#"{"a": ["spin", {}, true]} {}"#, "trailing characters"),
            (r#"{"a.com": "spin"}"#, r#""a.com": expected a rule"#),
            (r#"{"a.com": {"action": "spin"}}"#, "found an object"),
            (r#"{"a.com": 1.5}"#, "found a number"),
            (r#"{"hosts": {"a.com": -3}}"#, r#""a.com": expected a rule"#),
            (r#"{"stats": {}}"#, "found an object"),
            ("\u{feff}{}", "expected value"),
        ] {
            let error = check(text.as_bytes(), false).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn bodies_that_fit_are_sent_at_once() {
        assert_eq!(fits(256 << 20), Ok(()));
        assert!(fits((256 << 20) + 1).is_err_and(|why| why.contains("--merge")));
    }

    /// Values that are skipped need no stack. The daemon decides how deep a rule may be.
    #[test]
    fn depth_costs_nothing() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(found(&deep, false).1, 1);
    }
}
