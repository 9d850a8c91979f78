//! Verdict from consecutive probes. Pure: no clock, no sockets.

use std::time::Duration;

use crate::limits;
use crate::table::Check;

/// State of a backend, or of a check of it, as far as it is known.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum State {
    /// The backend has not been probed yet; it counts as up.
    Unknown,
    /// All checks of the backend succeed.
    Up,
    /// Some checks of the backend fail, each for the rules that ask for it.
    PartlyDown,
    /// All checks of the backend fail; as the state of one check: this check fails.
    Down,
    /// Requests failed, and no probe of the backend has succeeded since.
    Ejected,
}

impl State {
    pub(in crate::control) fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::PartlyDown => "partly_down",
            State::Down => "down",
            State::Ejected => "ejected",
        }
    }

    pub(in crate::control) fn parse(text: &str) -> Option<State> {
        let all = [State::Unknown, State::Up, State::PartlyDown, State::Down, State::Ejected];
        all.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether the requests of all rules pass over the backend.
    pub(in crate::control) fn is_bad(self) -> bool {
        matches!(self, State::Down | State::Ejected)
    }
}

/// Verdict from consecutive probes (HAProxy's `rise` and `fall`). A backend counts as up at first.
/// If the very first probe fails, the backend is down at once; later it takes several failures in a
/// row.
#[derive(Copy, Clone, Debug)]
pub(super) struct Verdict {
    is_up: bool,
    is_asked: bool,
    /// Consecutive probes that contradict the verdict.
    against: u32,
}

impl Verdict {
    pub(super) fn new() -> Verdict {
        Verdict { is_up: true, is_asked: false, against: 0 }
    }

    pub(super) fn state(self) -> State {
        match self {
            Verdict { is_up: false, .. } => State::Down,
            Verdict { is_asked: true, .. } => State::Up,
            Verdict { .. } => State::Unknown,
        }
    }

    /// Takes over the verdict of another process.
    pub(super) fn recall(&mut self, state: State) {
        match state {
            State::Down | State::Ejected => {
                *self = Verdict { is_up: false, is_asked: true, against: 0 };
            }
            State::Up | State::PartlyDown => self.is_asked = true,
            State::Unknown => {}
        }
    }

    /// Takes the outcome of one probe. If it turns the verdict, returns how many consecutive probes
    /// that took.
    pub(super) fn take(&mut self, is_well: bool, check: &Check) -> Option<u32> {
        let is_first = !std::mem::replace(&mut self.is_asked, true);
        if is_well == self.is_up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match (self.is_up, is_first) {
            (true, true) => 1,
            (true, false) => check.fall(),
            (false, _) => check.rise(),
        };
        if self.against < needed {
            return None;
        }
        self.is_up = is_well;
        Some(std::mem::take(&mut self.against))
    }

    /// Pause until the next probe. It is shorter while the verdict is about to turn, and while the
    /// backend is down (HAProxy's `fastinter` and `downinter`).
    pub(super) fn pause(self, check: &Check) -> Duration {
        let interval = check.interval();
        let part = match (self.is_up, self.against) {
            (_, 1..) => interval / 4,
            (true, 0) => interval,
            (false, 0) => interval / 2,
        };
        part.max(limits::CHECK_PAUSE_MIN.min(interval))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::{Action, Names, Rule};

    fn check(arguments: serde_json::Value) -> std::sync::Arc<Check> {
        let mut given = json!({"backends": "10.0.0.1:80", "check": "/"});
        given.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
        let rule = Rule::from_json("a.com", &json!(["proxy", given, true]), &mut Names::default());
        match rule.expect("a rule").action {
            Action::Proxy(proxy) => proxy.check().expect("a check").clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The state after each of these findings.
    fn states(verdict: &mut Verdict, check: &Check, found: &[bool]) -> Vec<State> {
        let states = found.iter().map(|is_well| {
            verdict.take(*is_well, check);
            verdict.state()
        });
        states.collect()
    }

    #[test]
    fn the_first_probe_decides_and_then_it_takes_several() {
        use State::{Down, Up};
        let check = check(json!({}));
        let mut verdict = Verdict::new();
        assert_eq!(verdict.state(), State::Unknown);
        let found = [false, true, false, true, true];
        assert_eq!(states(&mut verdict, &check, &found), [Down, Down, Down, Down, Up]);
        let found = [false, false, true, false, false, false];
        assert_eq!(states(&mut verdict, &check, &found), [Up, Up, Up, Up, Up, Down]);
        assert_eq!(states(&mut Verdict::new(), &check, &[true, false]), [Up, Up]);
    }

    #[test]
    fn fall_and_rise_are_those_of_the_check() {
        use State::{Down, Up};
        let check = check(json!({"check_fall": 1, "check_rise": 3}));
        let found = [true, false, true, true, false, true, true, true];
        assert_eq!(
            states(&mut Verdict::new(), &check, &found),
            [Up, Down, Down, Down, Down, Down, Down, Up]
        );
    }

    #[test]
    fn probes_come_sooner_when_it_is_about_to_turn() {
        for (seconds, [every, soon, down]) in
            [(2.0, [2000, 500, 1000]), (0.2, [200, 100, 100]), (60.0, [60_000, 15_000, 30_000])]
        {
            let check = check(json!({ "check_interval": seconds }));
            let mut verdict = Verdict::new();
            let mut pauses = Vec::new();
            for is_well in [true, false, false, false, false, true, true, true] {
                verdict.take(is_well, &check);
                pauses.push(verdict.pause(&check).as_millis());
            }
            assert_eq!(pauses, [every, soon, soon, down, down, soon, every, every]);
        }
    }
}
