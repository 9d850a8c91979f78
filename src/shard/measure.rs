//! Measures of a request: the status and author of its response, the times that its parts took, and
//! whether it failed. They go to the shard's totals, to the slots of its host and of its backend,
//! and to its line of the access log.
//!
//! All times are by the coarse clock, which the shard reads once per turn: measuring does not read
//! the clock.

use std::time::{Duration, Instant};

use super::Shard;
use super::request::RequestTicket;
use super::tally::Live;
use crate::link::{Author, BackendCount, Counter, HostCount, SlotTime};

impl Shard {
    /// Counts the head of a backend's response that is sent to the client, perhaps with a body
    /// behind it. Interim responses count only as bytes.
    pub(super) fn count_answer(&self, ticket: RequestTicket, status: u16, bytes: usize) {
        self.count_head(Author::Backend, ticket, status, bytes);
    }

    /// Counts a reply of our own.
    pub(super) fn count_reply(&self, ticket: RequestTicket, status: u16, bytes: usize) {
        self.count_head(Author::Mantrid, ticket, status, bytes);
    }

    fn count_head(&self, author: Author, ticket: RequestTicket, status: u16, bytes: usize) {
        let counters = self.end.counters();
        counters.add(Counter::Sent, bytes as u64);
        let is_final = 200 <= status || status == 101;
        if is_final {
            counters.add_status(author, status);
        }
        let is_unknown = self.with_live(ticket, |live| {
            if let Some(record) = &mut live.record {
                record.sent += bytes as u64;
                record.status = status;
            }
            if is_final {
                live.status = status;
                self.count_time(live.host, SlotTime::Latency, self.time_since(live.began));
            }
            if let Some(slot) = self.end.hosts().get(live.host) {
                slot.add(HostCount::BytesSent, bytes as u64);
                match live.is_unknown {
                    true => slot.add_unknown(),
                    false => slot.add_answer(status),
                }
            }
            live.is_unknown
        });
        // Requests for names without a rule say nothing about how the others are served.
        match is_unknown.unwrap_or(false) {
            true => counters.add(Counter::AnswersUnknown, 1),
            false => counters.add_answer(status),
        }
    }

    /// Counts a connection that was opened for a request, and the time it took.
    pub(super) fn count_connect(&self, ticket: RequestTicket, backend_slot: u32, time: Duration) {
        let host = self.host_noting(ticket, |record| record.connect = Some(time));
        self.count_time(host, SlotTime::Connect, time);
        self.end.backends().add_time(backend_slot, SlotTime::Connect, time);
        self.end.backends().add(backend_slot, BackendCount::Connections, 1);
    }

    /// Counts the head of a final response that has arrived.
    pub(super) fn count_response(&self, ticket: RequestTicket, status: u16) {
        self.with_live(ticket, |live| {
            let time = self.time_since(live.sent);
            if let Some(record) = &mut live.record {
                record.first_byte = Some(time);
            }
            self.count_time(live.host, SlotTime::Response, time);
            self.end.backends().add_time(live.backend_slot, SlotTime::Response, time);
            if let Some(slot) = self.end.backends().get(live.backend_slot) {
                slot.add_answer(status);
            }
        });
    }

    /// Counts a request that failed.
    #[cold]
    pub(super) fn count_error(&self, live: &Live) {
        self.count(Counter::Errors);
        self.end.hosts().add(live.host, HostCount::Errors, 1);
        self.end.backends().add(live.backend_slot, BackendCount::Errors, 1);
    }

    /// Time since a moment, by the coarse clock.
    pub(super) fn time_since(&self, moment: Instant) -> Duration {
        self.ring.now().saturating_duration_since(moment)
    }

    /// Counts a time of a request, in the totals and for its host.
    pub(super) fn count_time(&self, host: u32, time: SlotTime, took: Duration) {
        self.end.counters().add_time(time, took);
        self.end.hosts().add_time(host, time, took);
    }

    /// Counts a time that a request waited, held or in a queue.
    pub(super) fn count_wait(&self, ticket: RequestTicket, time: SlotTime, waited: Duration) {
        let host = self.host_noting(ticket, |record| match time {
            SlotTime::Held => record.held += waited,
            _ => record.queued += waited,
        });
        self.count_time(host, time, waited);
    }
}
