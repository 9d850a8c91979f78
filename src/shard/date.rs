//! The date in replies and responses: read from the system's clock and written out once a second.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::HttpDate;

pub(super) struct DateClock {
    date: Cell<HttpDate>,
    /// Beginning of the next second.
    until: Cell<Instant>,
}

impl DateClock {
    pub(super) fn new(now: Instant) -> DateClock {
        DateClock { date: Cell::new(HttpDate::at(0)), until: Cell::new(now) }
    }

    /// The date at `now`, or within a second of it where the system's clock was set.
    pub(super) fn date(&self, now: Instant) -> HttpDate {
        if self.until.get() <= now {
            // A clock that stands before 1970 was never set.
            let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let fraction = Duration::from_nanos(moment.subsec_nanos().into());
            self.date.set(HttpDate::at(moment.as_secs()));
            self.until.set(now + Duration::from_secs(1) - fraction);
        }
        self.date.get()
    }
}
