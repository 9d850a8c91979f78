//! Whether one backend is well, from what its probes find and shards report: no clock, no sockets.
//!
//! A backend may be probed in several ways at once (rules differ in their `check`, or it was
//! ejected besides). Each has its own verdict; the backend is well if all of them say so.

use std::time::Duration;

use super::probe::Finding;
use crate::limits;

/// State of a backend, as far as it is known.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum State {
    /// The backend is to be probed and was not yet; it counts as up.
    Unknown,
    /// All probes of the backend succeed.
    Up,
    /// A probe of the backend fails.
    Down,
    /// Requests failed, and no probe has found it well since.
    Ejected,
}

impl State {
    pub(in crate::control) fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Down => "down",
            State::Ejected => "ejected",
        }
    }

    pub(in crate::control) fn parse(text: &str) -> Option<State> {
        let all = [State::Unknown, State::Up, State::Down, State::Ejected];
        all.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether requests pass over the backend.
    pub(in crate::control) fn is_bad(self) -> bool {
        matches!(self, State::Down | State::Ejected)
    }
}

/// Verdict of a row of probes (HAProxy's `rise` and `fall`). A backend is up until probes say
/// otherwise: the first one alone, later ones when enough of them failed in a row.
#[derive(Copy, Clone, Debug)]
pub(super) struct Verdict {
    is_up: bool,
    is_asked: bool,
    /// Probes in a row that say the opposite.
    against: u32,
    /// Successes in a row that turn the backend up.
    rise: u32,
}

impl Verdict {
    /// The verdict of a rule's `check`.
    pub(super) fn of_check() -> Verdict {
        Verdict { is_up: true, is_asked: false, against: 0, rise: limits::CHECK_RISE }
    }

    /// The verdict on a backend that was ejected and is not checked otherwise.
    pub(super) fn of_ejected() -> Verdict {
        Verdict { is_up: false, is_asked: true, against: 0, rise: 1 }
    }

    /// Turns the verdict down: requests have shown more than probes did.
    pub(super) fn fall(&mut self) {
        *self = Verdict { is_up: false, is_asked: true, against: 0, ..*self };
    }

    /// Takes the outcome of one probe; returns how many it took, if this one turned the verdict.
    pub(super) fn take(&mut self, is_well: bool) -> Option<u32> {
        let is_first = !std::mem::replace(&mut self.is_asked, true);
        if is_well == self.is_up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match (self.is_up, is_first) {
            (true, true) => 1,
            (true, false) => limits::CHECK_FALL,
            (false, _) => self.rise,
        };
        if self.against < needed {
            return None;
        }
        self.is_up = is_well;
        Some(std::mem::take(&mut self.against))
    }

    /// Pause until the next probe: shorter when the verdict is about to turn.
    pub(super) fn pause(&self) -> Duration {
        match (self.is_up, self.against) {
            (_, 1..) => limits::CHECK_SOON,
            (true, 0) => limits::CHECK_EVERY,
            (false, 0) => limits::CHECK_DOWN,
        }
    }
}

/// One backend.
#[derive(Debug)]
pub(super) struct Condition {
    /// Verdicts by the number of the probe; few, nearly always one.
    verdicts: Vec<(u64, Verdict)>,
    /// The backend is down because requests failed.
    is_ejected: bool,
    pub(super) reason: String,
}

impl Condition {
    pub(super) fn new() -> Condition {
        Condition { verdicts: Vec::new(), is_ejected: false, reason: "not probed yet".to_owned() }
    }

    pub(super) fn state(&self) -> State {
        let all = || self.verdicts.iter().map(|(_, verdict)| verdict);
        match () {
            () if all().any(|verdict| !verdict.is_up) && self.is_ejected => State::Ejected,
            () if all().any(|verdict| !verdict.is_up) => State::Down,
            () if all().any(|verdict| verdict.is_asked) => State::Up,
            () => State::Unknown,
        }
    }

    pub(super) fn add(&mut self, probe: u64, verdict: Verdict) {
        self.verdicts.push((probe, verdict));
    }

    /// Removes the verdict of a probe; whether that changed the state.
    pub(super) fn remove(&mut self, probe: u64) -> bool {
        let before = self.state();
        self.verdicts.retain(|(id, _)| *id != probe);
        before != self.state()
    }

    /// Whether the backend is probed at all.
    pub(super) fn is_probed(&self) -> bool {
        !self.verdicts.is_empty()
    }

    pub(super) fn pause(&self, probe: u64) -> Duration {
        let verdict = self.verdicts.iter().find(|(id, _)| *id == probe);
        verdict.map_or(limits::CHECK_EVERY, |(_, verdict)| verdict.pause())
    }

    /// Ejects the backend, as requests failed; returns its probes, each of which has to find it
    /// well again.
    pub(super) fn eject(&mut self, reason: String) -> impl Iterator<Item = u64> {
        self.is_ejected = true;
        self.reason = reason;
        self.verdicts.iter_mut().for_each(|(_, verdict)| verdict.fall());
        self.verdicts.iter().map(|(id, _)| *id)
    }

    /// Takes over what another process has found.
    pub(super) fn recall(&mut self, state: State, reason: String) {
        self.reason = reason;
        self.is_ejected = state == State::Ejected;
        for (_, verdict) in &mut self.verdicts {
            match state {
                State::Down | State::Ejected => verdict.fall(),
                State::Up => verdict.is_asked = true,
                State::Unknown => {}
            }
        }
    }

    /// Takes what a probe found.
    pub(super) fn take(&mut self, probe: u64, found: Finding) {
        let before = self.state();
        let Some((_, verdict)) = self.verdicts.iter_mut().find(|(id, _)| *id == probe) else {
            return;
        };
        let Some(is_well) = found.is_well() else { return };
        let turned = verdict.take(is_well);
        let after = self.state();
        if !after.is_bad() {
            self.is_ejected = false;
        }
        // The first probe that fails gives the reason.
        if before != after {
            self.reason = match turned {
                Some(count @ 2..) => format!("{found}, {count} times"),
                _ => found.to_string(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Finding = Finding::Answered(204);
    const BAD: Finding = Finding::Answered(500);

    fn checked(probes: u64) -> Condition {
        let mut condition = Condition::new();
        (0..probes).for_each(|id| condition.add(id, Verdict::of_check()));
        condition
    }

    /// The states after each of these findings.
    fn states(condition: &mut Condition, found: &[Finding]) -> Vec<State> {
        let states = found.iter().map(|found| {
            condition.take(0, *found);
            condition.state()
        });
        states.collect()
    }

    #[test]
    fn the_first_probe_decides_and_then_it_takes_several() {
        use State::{Down, Up};
        let mut condition = checked(1);
        assert_eq!(condition.state(), State::Unknown);
        assert_eq!(
            states(&mut condition, &[BAD, WELL, BAD, WELL, WELL]),
            [Down, Down, Down, Down, Up]
        );
        assert_eq!(condition.reason, "answered 204, 2 times");
        let found = [BAD, BAD, WELL, BAD, BAD, BAD];
        assert_eq!(states(&mut condition, &found), [Up, Up, Up, Up, Up, Down]);
        assert_eq!(condition.reason, "answered 500, 3 times");
        let mut condition = checked(1);
        assert_eq!(states(&mut condition, &[WELL, BAD]), [Up, Up]);
    }

    #[test]
    fn want_of_our_own_says_nothing() {
        let mut condition = checked(1);
        assert_eq!(states(&mut condition, &[Finding::Unable, BAD]), [State::Unknown, State::Down]);
        assert_eq!(condition.reason, "answered 500");
    }

    #[test]
    fn probes_come_sooner_when_it_is_about_to_turn() {
        let mut condition = checked(1);
        let mut pauses = Vec::new();
        for found in [WELL, BAD, BAD, BAD, BAD, WELL, WELL, WELL] {
            condition.take(0, found);
            pauses.push(condition.pause(0));
        }
        let (soon, down, every) = (limits::CHECK_SOON, limits::CHECK_DOWN, limits::CHECK_EVERY);
        assert_eq!(pauses, [every, soon, soon, down, down, soon, every, every]);
    }

    #[test]
    fn one_that_is_ejected_comes_back_by_its_check() {
        let mut condition = checked(1);
        condition.take(0, WELL);
        assert_eq!(condition.eject("requests failed".to_owned()).collect::<Vec<_>>(), [0]);
        assert_eq!((condition.state(), &*condition.reason), (State::Ejected, "requests failed"));
        assert_eq!(states(&mut condition, &[WELL, BAD, WELL, WELL]).last(), Some(&State::Up));
        condition.take(0, BAD);
        assert_eq!(condition.state(), State::Up, "back to as many as before");
    }

    #[test]
    fn one_that_is_not_checked_comes_back_with_the_first_probe() {
        let mut condition = Condition::new();
        condition.add(7, Verdict::of_ejected());
        assert_eq!(condition.eject(String::new()).collect::<Vec<_>>(), [7]);
        condition.take(7, Finding::TimedOut);
        assert_eq!(condition.state(), State::Ejected);
        condition.take(7, Finding::Connected);
        assert_eq!(condition.state(), State::Up);
    }

    #[test]
    fn all_of_its_probes_must_say_that_it_is_well() {
        let mut condition = checked(2);
        condition.take(0, WELL);
        assert_eq!(condition.state(), State::Up);
        condition.take(1, BAD);
        assert_eq!(condition.state(), State::Down);
        condition.take(0, WELL);
        assert_eq!(condition.state(), State::Down);
        condition.remove(1);
        assert_eq!(condition.state(), State::Up);
    }
}
