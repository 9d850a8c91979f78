"""The targets: what a request (or a MiB) of ours may cost, as a share of what it costs a peer.

`--cases goals` runs what is in this table and nothing else; any run that holds one of its cases ends with
the verdict. The floor is the cheaper of two relays that parse nothing.
"""

from dataclasses import dataclass
from statistics import median

from harness.peers import FLOORS


@dataclass(frozen=True)
class Goal:
    """`haproxy`, `nginx`, `floor`: of their cost at most; `beside`: of our own in the variant beside it."""

    haproxy: float = None
    nginx: float = None
    floor: float = None
    beside: float = None
    figure: str = "cpu_us"

    def targets(self):
        named = {kind: getattr(self, kind) for kind in ("haproxy", "nginx", "floor", "beside")}
        return {kind: target for kind, target in named.items() if target}


GOALS = {
    ("small", 1): Goal(haproxy=0.92, nginx=0.95),
    ("small", 8): Goal(haproxy=0.70, nginx=0.78),
    ("small", 64): Goal(haproxy=0.70, nginx=0.85, floor=1.08),
    ("small", 512): Goal(haproxy=0.52, nginx=0.68, floor=1.08),
    ("small-4000", 4000): Goal(haproxy=0.45, nginx=0.62, floor=1.00),
    ("small-unix", 64): Goal(haproxy=0.70, nginx=0.85, beside=0.82),
    ("small-unix", 512): Goal(haproxy=0.52, nginx=0.68, beside=0.82),
    ("small-unix", 4000): Goal(haproxy=0.45, nginx=0.62, beside=0.82),
    ("latency", 64): Goal(haproxy=1.00, nginx=1.00, figure="p99_us"),
    ("latency-half", 64): Goal(haproxy=1.00, nginx=1.00, figure="p99_us"),
    ("close", 64): Goal(haproxy=0.72, nginx=0.85),
    ("body-64k", 64): Goal(haproxy=0.60, nginx=0.80, floor=1.05),
    ("body-1m", 16): Goal(haproxy=0.85, nginx=0.65, floor=1.05),
    ("body-100m", 8): Goal(haproxy=0.95, nginx=0.45, floor=1.05),
    ("chunked", 64): Goal(haproxy=0.88, nginx=0.92),
    ("upload-64k", 64): Goal(haproxy=0.62),
    ("upload-100m", 4): Goal(haproxy=0.95, floor=1.10),
    ("upload-100m", 64): Goal(haproxy=0.95, floor=1.10),
    ("websocket", 64): Goal(haproxy=0.85, nginx=0.95),
    ("tcp-ping", 64): Goal(haproxy=0.72, floor=1.00),
    ("tcp-100m", 1): Goal(haproxy=0.98, floor=1.00),
    ("tcp-100m", 8): Goal(haproxy=0.98, floor=1.00),
    ("idle", 5000): Goal(haproxy=0.70, figure="each_bytes"),
    ("two-shards", 64): Goal(beside=1.05),
    ("two-shards", 512): Goal(beside=1.05),
}


def kinds(case, connections):
    """The peers without which there is no verdict."""
    targets = GOALS[case.name, connections].targets()
    return ("mantrid", *FLOORS, *(kind for kind in ("haproxy", "nginx") if kind in targets))


def ratio(runs, others, figure="cpu_us"):
    """Median of the rounds' ratios: the two runs of a round are neighbours in time."""
    return median(a[figure] / max(b[figure], 1e-9) for a, b in zip(runs, others))


def verdicts(measured):
    """One dictionary for each of our builds in each measured case that has a target."""
    found = []
    for rows in measured:
        goal = GOALS.get((rows["case"], rows["connections"]))
        if not goal:
            continue
        of_kind = {kind: name for name, kind in reversed(rows["kinds"].items())}
        for name, kind in rows["kinds"].items():
            if kind == "mantrid" and name not in rows["beside"].values():
                found.append(_verdict(rows, goal, name, of_kind))
    return found


def _verdict(rows, goal, name, of_kind):
    names = {kind: of_kind.get(kind) for kind in ("haproxy", "nginx", *FLOORS)}
    names["beside"] = rows["beside"].get(name)
    ratios = {
        kind: ratio(rows["runs"][name], rows["runs"][other], goal.figure)
        for kind, other in names.items()
        if other and not (kind in FLOORS and goal.figure != "cpu_us")
    }
    floors = [ratios.pop(kind) for kind in FLOORS if kind in ratios]
    if floors:
        # Beside the cheaper one.
        ratios["floor"] = max(floors)
    targets = goal.targets()
    if not set(targets) <= set(ratios):
        verdict = "not measured"
    elif all(ratios[kind] <= target for kind, target in targets.items()):
        verdict = "met"
    else:
        verdict = "missed"
    return {
        "case": rows["case"],
        "connections": rows["connections"],
        "name": name,
        "figure": goal.figure,
        "ratios": ratios,
        "targets": targets,
        "verdict": verdict,
    }
