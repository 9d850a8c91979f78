//! Changes to a head that Mantrid has already written for the other side: fields are set or
//! removed, and Host is replaced, as the rule or the configuration says. A head that needs no
//! change never comes here.
//!
//! Mantrid wrote the head itself, so every line ends with CRLF, and every field line has a colon
//! directly behind the field name.

use crate::fields::{FieldChange, is_same};

/// Applies changes to the head at the front of `out`. A body may follow and is left as it is.
pub fn change_fields(changes: &[FieldChange], out: &mut Vec<u8>) {
    let mut end = remove_fields(out, |name| changes.iter().any(|change| change.replaces(name)));
    for change in changes {
        if let Some(value) = change.value() {
            end = insert_field(out, end, change.name(), value.as_bytes());
        }
    }
}

/// Replaces Host in the request head at the front of `out`. The new Host becomes the first field
/// (RFC 9110 §7.2).
pub fn set_host(host: &[u8], out: &mut Vec<u8>) {
    remove_fields(out, |name| name.eq_ignore_ascii_case(b"host"));
    let first = line_end(out, 0);
    insert_field(out, first, "Host", host);
}

/// Removes all fields of this name, however it is spelled (`X-A`, `x_a`), and adds one with `value`
/// at the end of the head. `None` only removes.
pub fn replace_field(name: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    let end = remove_fields(out, |other| is_same(other, name.as_bytes()));
    if let Some(value) = value {
        insert_field(out, end, name, value);
    }
}

/// Adds a field at the end of the head at the front of `out`.
pub fn add_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let end = remove_fields(out, |_| false);
    insert_field(out, end, name, value);
}

/// Removes fields by name; returns the position of the empty line that ends the head.
fn remove_fields(out: &mut Vec<u8>, is_removed: impl Fn(&[u8]) -> bool) -> usize {
    let mut at = line_end(out, 0);
    while !out[at..].starts_with(b"\r\n") {
        let end = line_end(out, at);
        debug_assert!(at < end, "a head that Mantrid wrote ends with an empty line");
        if end <= at {
            break;
        }
        let name = memchr::memchr(b':', &out[at..end]).unwrap_or_default();
        if is_removed(&out[at..at + name]) {
            out.drain(at..end);
        } else {
            at = end;
        }
    }
    at
}

/// Position directly behind the line that begins at `from`.
fn line_end(out: &[u8], from: usize) -> usize {
    memchr::memchr(b'\n', &out[from..]).map_or(out.len(), |end| from + end + 1)
}

/// Inserts a field line at position `at`; returns the position directly behind the line.
fn insert_field(out: &mut Vec<u8>, at: usize, name: &str, value: &[u8]) -> usize {
    let parts = [name.as_bytes(), b": ", value, b"\r\n"];
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let before = out.len();
    out.resize(before + length, 0);
    out.copy_within(at..before, at + length);
    let mut to = at;
    for part in parts {
        out[to..to + part.len()].copy_from_slice(part);
        to += part.len();
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, value: Option<&str>) -> FieldChange {
        FieldChange::new(name, value).expect("a change")
    }

    #[track_caller]
    fn check(before: &str, edit: impl FnOnce(&mut Vec<u8>), after: &str) {
        let mut out = before.as_bytes().to_vec();
        edit(&mut out);
        assert_eq!(String::from_utf8(out).expect("text"), after);
    }

    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx_a: 2\r\nX-B: 3\r\nX-A: 4\r\n\r\n";

    #[test]
    fn fields_are_set_and_removed() {
        let set = [change("X-A", Some("new")), change("X-C", Some(""))];
        let after = "GET / HTTP/1.1\r\nHost: a\r\nX-B: 3\r\nX-A: new\r\nX-C: \r\n\r\n";
        check(HEAD, |out| change_fields(&set, out), after);
        let removed = [change("X-A", None), change("X-B", None), change("X-C", None)];
        check(HEAD, |out| change_fields(&removed, out), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        check(HEAD, |out| change_fields(&[], out), HEAD);
    }

    #[test]
    fn body_behind_the_head_stays_as_it_is() {
        let before = "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nX-A: 1\r\nX-B: 2\r\n\r\n";
        let set = [change("X-A", None), change("X-B", Some("3"))];
        let after = "HTTP/1.1 200 OK\r\nX-B: 3\r\n\r\nX-A: 1\r\nX-B: 2\r\n\r\n";
        check(before, |out| change_fields(&set, out), after);
        let bare = "HTTP/1.1 204 No Content\r\n\r\n";
        check(bare, |out| change_fields(&set, out), "HTTP/1.1 204 No Content\r\nX-B: 3\r\n\r\n");
    }

    #[test]
    fn host_is_the_first_field_and_the_only_one() {
        let after = "GET / HTTP/1.1\r\nHost: b:80\r\nX-A: 1\r\n\r\nhost: body\r\n";
        for before in ["X-A: 1\r\nhost: a\r\n", "HOST:a\r\nX-A: 1\r\n", "X-A: 1\r\n"] {
            let before = format!("GET / HTTP/1.1\r\n{before}\r\nhost: body\r\n");
            check(&before, |out| set_host(b"b:80", out), after);
        }
        check(after, |out| set_host(b"b:80", out), after);
    }

    #[test]
    fn field_replaces_every_spelling_of_its_name() {
        let after = "GET / HTTP/1.1\r\nHost: a\r\nX-B: 3\r\nX-A: 5\r\n\r\n";
        check(HEAD, |out| replace_field("X-A", Some(b"5"), out), after);
        let removed = "GET / HTTP/1.1\r\nHost: a\r\nX-B: 3\r\n\r\n";
        check(HEAD, |out| replace_field("X-A", None, out), removed);
    }

    #[test]
    fn field_is_added_at_the_end() {
        check("A b c\r\n\r\n", |out| add_field("X", b"y", out), "A b c\r\nX: y\r\n\r\n");
        check(
            "A b c\r\nV: w\r\n\r\nz",
            |out| add_field("X", b"y", out),
            "A b c\r\nV: w\r\nX: y\r\n\r\nz",
        );
    }
}
