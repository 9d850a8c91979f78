//! Reads any bytes as the values that etcd may hold: an entry of the log, a list of edits, a folded
//! table. Nothing may panic, and a value that was read must be written again as the same. For the
//! fuzzer and the property tests.

use std::sync::{Arc, Mutex};

use super::load::{Base, read_base};
use super::log::{Content, Edit, Entry, edits_text, read_edits};
use super::remote::apply;
use crate::table::{Names, Snapshot};

/// Reads bytes as each of the values, and applies the edits in them.
pub fn value(bytes: &[u8]) {
    // The number of an entry is in its key, too: any number must do.
    for sequence in [0, 1, 7] {
        match Entry::read(sequence, bytes).map(|entry| (entry.to_value(), entry.content)) {
            Ok((written, Content::Text(text))) => {
                let again = Entry::read(sequence, &written).expect("an entry");
                assert!(matches!(&again.content, Content::Text(other) if *other == text));
                edits(&text);
            }
            Ok((_, Content::Chunks(chunks))) => {
                // The pieces are other values, of which nothing is known.
                let halves = bytes.split_at(bytes.len() / 2);
                let _ = (chunks.join(&[bytes]), chunks.join(&[halves.0, halves.1]));
            }
            Err(_) => {}
        }
    }
    edits(bytes);
    if let Ok(base) = Base::read(bytes) {
        assert_eq!(Base::read(&base.to_value()).as_ref(), Ok(&base));
    }
    let _ = read_base(bytes, &mut Names::default());
}

fn edits(text: &[u8]) {
    let names = Arc::new(Mutex::new(Names::default()));
    let Ok(edits) = read_edits(text, &names) else { return };
    let mut table = Snapshot::default();
    for edit in &edits {
        table = apply(&table, edit).0;
    }
    // An edit with rules that this version can't read would lose them when written, so it is left
    // out. A node never writes another node's entry.
    let readable = edits.iter().filter(|edit| edit.rejected.is_empty());
    let readable: Vec<&Edit> = readable.collect();
    let each = readable.iter().map(|edit| (edit.verb, &*edit.who, edit.whole, &edit.rules));
    let again = read_edits(&edits_text(each), &names).expect("edits");
    assert_eq!(again.iter().collect::<Vec<_>>(), readable);
}
