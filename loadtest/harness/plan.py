"""What will be run, in which order, by whom, and how long it takes."""

import time
from dataclasses import dataclass, replace

from harness import cases, goals
from harness.peers import FLOORS, TABLES

# Beside the measurement itself: start, warm-up, stop; and the whole of what has no --seconds.
OVERHEAD_S = {"load": 1.9, "paced": 1.9, "idle": 9, "stalled": 6}
MANY = 1000  # connections; so many take a while to open and to close
MANY_S = 1.0
MILLION_S = 8.0  # writing and loading the large table
PEAK_S = 4.0


@dataclass(frozen=True)
class Entrant:
    """One row of a case: a peer, and the case as it gets it."""

    name: str
    peer: object
    case: cases.Case


@dataclass(frozen=True)
class Step:
    """A case with a number of connections; every round has one run of each entrant."""

    case: cases.Case
    connections: int
    entrants: tuple
    rounds: int
    seconds: int

    @property
    def each_s(self):
        measured = self.seconds if self.case.kind in ("load", "paced") else 0
        slow = MANY_S if self.connections > MANY and measured else 0
        slow += MILLION_S / 2 if self.case.hosts > cases.HOSTS else 0
        return measured + OVERHEAD_S[self.case.kind] + slow

    @property
    def total_s(self):
        peak = PEAK_S if self.case.kind == "paced" else 0
        return self.rounds * len(self.entrants) * self.each_s + peak


def steps(options, peers):
    """The whole run. `options.peers` is None where nobody named any: then the rarer ones are guests."""
    only_goals = options.cases == ["goals"]
    names = sorted({name for name, _ in goals.GOALS}) if only_goals else options.cases
    found = []
    for case in cases.select(names):
        for connections in options.connections or case.connections:
            if only_goals and (case.name, connections) not in goals.GOALS:
                continue
            wanted = goals.kinds(case, connections) if only_goals else None
            entrants = []
            for peer in peers:
                named = options.peers is not None
                if not takes_part(peer.kind, case) or (wanted and peer.kind not in wanted):
                    continue
                if not named and not (wanted or is_guest(peer.kind, case, connections)):
                    continue
                entrants.append(Entrant(peer.name, peer, case))
                if peer.kind == "mantrid" and case.beside:
                    suffix, fields = case.beside
                    entrants.append(Entrant(f"{peer.name}-{suffix}", peer, replace(case, **fields)))
            if entrants:
                seconds = case.seconds if case.seconds and not options.quick else options.seconds
                rounds = rounds_of(case, options)
                found.append(Step(case, connections, tuple(entrants), rounds, seconds))
    return found


def rounds_of(case, options):
    """Tails need more rounds than means do; memory and the soak say the same each time."""
    if case.kind == "paced" and not options.quick:
        return 2 * options.rounds + 1
    return options.rounds if case.kind in ("load", "paced") and case.name != "soak" else 1


def takes_part(kind, case):
    """Whether it can: nginx-light relays no raw TCP; a floor has one thread and knows no end of a message."""
    if case.only:
        return kind in case.only
    if kind in FLOORS:
        return case.kind == "load" and not case.close and case.shards == 1
    return case.mode == "http" or kind in ("mantrid", "haproxy")


def is_guest(kind, case, connections):
    """Whether it takes part unasked: the rarer peers only where they tell something."""
    if kind in TABLES:
        return case.name in ("small", "hosts") and connections == 64
    if kind in FLOORS:
        is_small = case.name.startswith("small") and 64 <= connections
        is_bulk = case.name.startswith("body-") or case.name == "upload-100m"
        return is_small or is_bulk or case.mode == "tcp" or case.load == "websocket"
    return True


class Clock:
    """How long it still takes: what was expected of the rest, corrected by how the past went."""

    def __init__(self, planned):
        self.total = sum(step.total_s for step in planned)
        self.done = 0.0
        self.began = time.monotonic()

    def passed(self, expected_s):
        self.done += expected_s

    def left(self):
        pace = (time.monotonic() - self.began) / self.done if self.done else 1.0
        return minutes(max(self.total - self.done, 0) * pace)


def minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
