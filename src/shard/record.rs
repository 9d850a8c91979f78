//! Lines of the access log: one per request or raw connection, written when it has ended. A line
//! grows in a record of its own while its request is under way; the record is then used again for
//! another request. Nothing here waits: a line that finds no room is dropped and counted.

use std::cell::RefCell;

use super::Shard;
use super::ending::Ending;
pub(super) use super::log_line::Record;
use super::log_line::{self, Asked};
use super::request::Client;
use crate::address::Address;
use crate::http::{Refusal, RequestHead};
use crate::limits;
use crate::link::Counter;
use crate::table::Scheme;

/// Records and lines that a shard keeps.
#[derive(Default)]
pub(super) struct Records {
    #[expect(clippy::vec_box, reason = "a record is moved about as a box, and kept as one")]
    unused: RefCell<Vec<Box<Record>>>,
    /// Lines that are not on the shard's page of the logbook yet.
    back: RefCell<Vec<u8>>,
}

impl Shard {
    /// Begins the record of a request for `host`; `None` where the log is off.
    pub(super) fn record_http(
        &self,
        head: &RequestHead<'_, '_>,
        (host, scheme): (Option<&str>, Scheme),
        client: Client,
    ) -> Option<Box<Record>> {
        if !self.end.together.logbook.is_on() {
            return None;
        }
        let mut record = self.new_record();
        let scheme = if scheme.is_secure() { "https" } else { "http" };
        let id = self.whole_request_id(client.request_id);
        log_line::begin(&mut record, client, &Asked { host, scheme, head: Some((head, id)) });
        Some(record)
    }

    /// Begins the record of a raw connection; `None` where the log is off.
    pub(super) fn record_raw(
        &self,
        host: Option<&str>,
        scheme: Scheme,
        client: Client,
    ) -> Option<Box<Record>> {
        if !self.end.together.logbook.is_on() {
            return None;
        }
        let mut record = self.new_record();
        let scheme = if scheme == Scheme::Tls { "tls" } else { "tcp" };
        log_line::begin(&mut record, client, &Asked { host, scheme, head: None });
        Some(record)
    }

    /// Counts the end of a head that was refused, and writes its line.
    pub(super) fn record_refusal(&self, client: Client, refusal: Refusal, answered: usize) {
        self.end.counters().add_ending(Ending::Refused(refusal).position());
        if !self.end.together.logbook.is_on() {
            return;
        }
        let mut record = self.new_record();
        log_line::begin(&mut record, client, &Asked { host: None, scheme: "http", head: None });
        record.status = refusal.status();
        record.sent = answered as u64;
        record.ending = Ending::Refused(refusal);
        self.file(record, None);
    }

    fn new_record(&self) -> Box<Record> {
        let unused = self.records.unused.borrow_mut().pop();
        let began = self.ring.now();
        let mut record = unused.unwrap_or_else(|| Box::new(Record::new(began)));
        let (line, late) = (std::mem::take(&mut record.line), std::mem::take(&mut record.late));
        *record = Record { line, late, style: self.tuning().log_style, ..Record::new(began) };
        record
    }

    /// Notes the name of the rule with this key in a line that wants it. A request that was held
    /// may come under another rule.
    pub(super) fn note_rule(&self, record: &mut Record, key: u64) {
        if record.wants_rule() {
            record.late.clear();
            let table = self.table();
            record.late.extend_from_slice(table.snapshot().name_of(key).unwrap_or("").as_bytes());
        }
    }

    /// Finishes and writes the line of a request that has ended.
    pub(super) fn file(&self, mut record: Box<Record>, backend: Option<Address>) {
        let one_of = u64::from(record.style.sample.get());
        if one_of == 1 || record.is_error() || self.random().is_multiple_of(one_of) {
            let total = self.ring.now().saturating_duration_since(record.began);
            log_line::finish(&mut record, backend, total, self.end.index);
            let mut back = self.records.back.borrow_mut();
            if back.len() + record.line.len() <= limits::LOG_BACK_BYTES_MAX {
                back.extend_from_slice(&record.line);
            } else {
                self.count(Counter::LogDropped);
            }
            self.end.together.logbook.write(self.end.index, &mut back);
        }
        record.line.clear();
        record.late.clear();
        let mut unused = self.records.unused.borrow_mut();
        if unused.len() < limits::OUT_BUFFERS_KEPT {
            unused.push(record);
        }
    }

    /// Writes lines that found the page taken away or full when they were to be written.
    pub(super) fn file_rest(&self) {
        let mut back = self.records.back.borrow_mut();
        if !back.is_empty() {
            self.end.together.logbook.write(self.end.index, &mut back);
        }
    }
}
