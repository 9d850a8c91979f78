"""From records to a table: medians, spread, ratios taken round by round, and what to distrust.

A ratio is the median of the ratios of the rounds, not the ratio of the medians: the runs of one round
are neighbours in time, so a machine that gets slower spoils both of a pair.
"""

import os
import platform
import subprocess
from statistics import median

from harness.peers import REPOSITORY

BUSY_ENOUGH = 0.85  # below it the load side, not the proxy, set the rate
STRANGERS = 0.08  # share of the proxy's CPU that others may take before a run is marked
STOLEN = 0.02
SOAK_GROWTH = 0.10


def machine():
    """What somebody else needs to know to judge the figures."""
    model = "unknown"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // (1 << 20)
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _commit():
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(describe, cwd=REPOSITORY, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def markdown(result):
    """The whole report of one run."""
    about = result["machine"]
    lines = [
        f"# Load test of {result['date']}",
        "",
        f"{about['cpu']}, {about['cpus']} CPUs, {about['memory_gib']} GiB, Linux {about['kernel']};"
        f" source {about['commit']}.",
        f"Proxy on CPU {', '.join(map(str, result['options']['cpus']))}, load and backend on CPU"
        f" {result['options']['load_cpu']}; {result['options']['rounds']} rounds of"
        f" {result['options']['seconds']} s, alternating.",
        "",
    ]
    lines += [f"- {peer['name']}: {peer['version']}" for peer in result["peers"]]
    load = [rows for rows in result["measured"] if rows["kind"] == "load"]
    paced = [rows for rows in result["measured"] if rows["kind"] == "paced"]
    memory = [rows for rows in result["measured"] if rows["kind"] not in ("load", "paced")]
    if load:
        lines += ["", "## Cost", ""] + _load_table(load, result["peers"])
    if paced:
        lines += ["", "## Latency at a fixed rate", ""] + _paced_table(paced)
    if memory:
        lines += ["", "## Memory", ""] + _memory_table(memory)
    return "\n".join(lines) + "\n"


def _load_table(measured, peers):
    rivals = [peer["name"] for peer in peers if peer["kind"] != "mantrid"]
    # With nobody else there, or two builds of ours: the first build is what the others are held to.
    ours = [peer["name"] for peer in peers if peer["kind"] == "mantrid"]
    against = rivals + (ours[:1] if len(ours) > 1 else [])
    head = ["case", "proxy", "requests/s", "CPU µs", "spread", "user + system", "calls", "p99 ms"]
    head += [f"× {name}" for name in against]
    head += ["CPU busy", "resident MiB", "errors", "note"]
    table = [_row(head), _row(["---"] * len(head))]
    for rows in measured:
        by_peer = rows["runs"]
        for name, runs in by_peer.items():
            cost = [run["cpu_us"] for run in runs]
            cells = [
                f"{rows['case']}, {rows['connections']}",
                name,
                f"{_median(runs, 'requests_per_s'):,.0f}",
                f"**{median(cost):.2f}** per {rows['unit']}",
                f"{min(cost):.2f}–{max(cost):.2f}",
                f"{_median(runs, 'user_us'):.2f} + {_median(runs, 'system_us'):.2f}",
                _calls(runs),
                f"{_median(runs, 'p99_us') / 1000:.2f}",
            ]
            cells += [_ratio(runs, by_peer.get(other), name == other) for other in against]
            cells += [
                f"{_median(runs, 'busy'):.0%}",
                _resident(rows, runs),
                _errors(runs),
                "; ".join(_notes(rows, runs)),
            ]
            table.append(_row(cells))
    return table


def _paced_table(measured):
    head = ["case", "proxy", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs", "errors"]
    table = [_row(head), _row(["---"] * len(head))]
    for rows in measured:
        for name, runs in rows["runs"].items():
            cells = [f"{rows['case']}, {rows['connections']}", name, f"{runs[0]['rate']:,}"]
            cells += [f"{_median(runs, key) / 1000:.2f}" for key in ("p50_us", "p99_us", "p999_us")]
            table.append(_row(cells + [f"{_median(runs, 'cpu_us'):.2f}", _errors(runs)]))
    return table


def _memory_table(measured):
    head = ["case", "proxy", "growth MiB", "each KiB", "pipes MiB", "resident MiB", "errors"]
    table = [_row(head), _row(["---"] * len(head))]
    for rows in measured:
        for name, runs in rows["runs"].items():
            table.append(
                _row(
                    [
                        f"{rows['case']}, {rows['connections']}",
                        name,
                        f"{_median(runs, 'growth_bytes') / (1 << 20):.1f}",
                        f"**{_median(runs, 'each_bytes') / 1024:.2f}**",
                        f"{_median(runs, 'pipe_bytes') / (1 << 20):.1f}",
                        f"{_median(runs, 'resident_bytes') / (1 << 20):.1f}",
                        _errors(runs),
                    ]
                )
            )
    return table


def _row(cells):
    return "| " + " | ".join(cells) + " |"


def _median(runs, key):
    return median(run[key] for run in runs)


def _ratio(runs, others, same):
    if same or not others:
        return ""
    return f"{median(a['cpu_us'] / b['cpu_us'] for a, b in zip(runs, others)):.2f}"


def _calls(runs):
    """System calls per request, where they were counted."""
    counted = [run["calls"] for run in runs if run.get("calls") is not None]
    return f"{median(counted):.2f}" if counted else ""


def _resident(rows, runs):
    end = _median(runs, "end_bytes") / (1 << 20)
    if rows["case"] == "soak":
        early = _median(runs, "early_bytes") / (1 << 20)
        return f"{early:.1f} → {end:.1f} ({end / early - 1:+.0%})" if early else f"{end:.1f}"
    return f"{_median(runs, 'resident_bytes') / (1 << 20):.1f}"


def _errors(runs):
    total = {}
    for run in runs:
        for name, count in run["errors"].items():
            total[name] = total.get(name, 0) + count
    return ", ".join(f"**{count} {name}**" for name, count in total.items()) or "none"


def _notes(rows, runs):
    """What to distrust in a row."""
    notes = []
    if _median(runs, "busy") < BUSY_ENOUGH:
        notes.append("rate limited by the load side")
    if rows["shards"] == 1:  # with more the load is one of the others
        marked = sum(1 for run in runs if run["others"] > STRANGERS)
        if marked:
            notes.append(f"others on its CPU in {marked} of {len(runs)}")
    if rows["case"] == "soak":
        if any(abs(run["end_bytes"] / run["early_bytes"] - 1) > SOAK_GROWTH for run in runs):
            notes.append(f"memory moved by more than {SOAK_GROWTH:.0%}")
    if any(run["stolen"] > STOLEN for run in runs):
        notes.append("CPU stolen by the hypervisor")
    return notes
