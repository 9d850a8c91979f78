"""From records to a table: medians, spread, ratios taken round by round, and what to distrust.

A ratio is the median of the ratios of the rounds, not the ratio of the medians: the runs of one round
are neighbours in time, so a machine that gets slower spoils both of a pair.
"""

import os
import platform
import subprocess
from statistics import median

from harness import goals
from harness.peers import REPOSITORY

BUSY_ENOUGH = 0.85  # below it the load side, not the proxy, set the rate
STRANGERS = 0.08  # share of the proxy's CPU that others may take before a run is marked
STOLEN = 0.02
LAG = 0.25  # share of the 99th percentile that may be the generator's own lateness
SOAK_GROWTH = 0.10
TAILS = ("p50_us", "p99_us", "p999_us", "max_us")


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
    lines = [f"# Load test of {result['date']}", "", about(result), ""]
    for peer in result["peers"]:
        caveat = f" ({peer['caveat']})" if peer["caveat"] else ""
        lines.append(f"- {peer['name']}: {peer['version']}{caveat}")
    for title, table in tables(result):
        lines += ["", f"## {title}", "", *table]
    return "\n".join(lines) + "\n"


def about(result):
    """What was measured where, as a sentence or two."""
    machine, options = result["machine"], result["options"]
    earlier = "".join(f" Some cases are of an earlier run: {about}" for about in result.get("earlier", []))
    return (
        f"{result['date']}, {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, Linux {machine['kernel']};"
        f" source {machine['commit']}. Proxy on CPU {', '.join(map(str, options['cpus']))}, load and backend on"
        f" CPU {options['load_cpu']}; {options['rounds']} rounds of {options['seconds']} s, alternating.{earlier}"
    )


def tables(result):
    """Pairs of a title and the lines of a table, of what there is."""
    measured = result["measured"]
    load = [rows for rows in measured if rows["kind"] == "load"]
    paced = [rows for rows in measured if rows["kind"] == "paced"]
    memory = [rows for rows in measured if rows["kind"] not in ("load", "paced")]
    verdicts = goals.verdicts(measured)
    found = [("Verdict", _verdict_table(verdicts, measured))] if verdicts else []
    found += [("Cost", _load_table(load, result["peers"]))] if load else []
    found += [("Latency at a fixed rate", _paced_table(paced))] if paced else []
    return found + ([("Memory", _memory_table(memory))] if memory else [])


def verdict_lines(result):
    """The verdict once more, a line each: the last that is seen of a run."""
    lines = [""]
    for one in goals.verdicts(result["measured"]):
        ratios = [
            f"{kind} {one['ratios'][kind]:.2f} ({target:.2f})"
            for kind, target in one["targets"].items()
            if kind in one["ratios"]
        ]
        ratios += [f"floor {one['ratios']['floor']:.2f}"] if "floor" in one["ratios"] else []
        label = f"{one['case']}, {one['connections']}"
        lines.append(f"{label:<18} {one['name']:<10} {one['verdict']:<21} {'  '.join(ratios)}")
    return lines if 1 < len(lines) else []


def _verdict_table(verdicts, measured):
    head = ["case", "what", "× HAProxy (target)", "× nginx (target)", "× one shard (target)"]
    head += ["× floor (target)", "verdict", "note"]
    table = [_row(head), _row(["---"] * len(head))]
    by_case = {(rows["case"], rows["connections"]): rows for rows in measured}
    for one in verdicts:
        rows = by_case[one["case"], one["connections"]]
        name = "" if one["name"] == "mantrid" else f" ({one['name']})"
        named = {"p99_us": "p99", "each_bytes": "memory"}
        what = named.get(one["figure"]) or f"CPU per {rows['unit']}"
        cells = [f"{one['case']}, {one['connections']}{name}", what]
        for kind in ("haproxy", "nginx", "beside"):
            ratio, target = one["ratios"].get(kind), one["targets"].get(kind)
            cells.append(f"{ratio:.2f} ({target:.2f})" if ratio and target else "")
        floor, target = one["ratios"].get("floor"), one["targets"].get("floor")
        cells.append(f"{floor:.2f}" + (f" ({target:.2f})" if target else "") if floor else "")
        cells.append(f"**{one['verdict']}**")
        table.append(_row(cells + ["; ".join(notes(rows, one["name"]))]))
    met = sum(one["verdict"] == "met" for one in verdicts)
    return [*table, "", f"{met} of {len(verdicts)} met. The floor is a relay that parses nothing."]


def _load_table(measured, peers):
    rivals = [peer["name"] for peer in peers if peer["kind"] != "mantrid"]
    # With nobody else there, or two builds of ours: the first build is what the others are held to.
    ours = [peer["name"] for peer in peers if peer["kind"] == "mantrid"]
    against = rivals + (ours[:1] if len(ours) > 1 else [])
    has_beside = any(rows["beside"] for rows in measured)
    head = ["case", "proxy", "requests/s", "CPU µs", "spread", "user + system", "calls", "p99 ms"]
    head += [f"× {name}" for name in against]
    head += ["× the variant"] if has_beside else []
    head += ["CPU busy", "load busy", "resident MiB", "errors", "note"]
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
            is_variant = name in rows["beside"].values()
            cells += [_ratio(runs, by_peer.get(other), is_variant or name == other) for other in against]
            cells += [_ratio(runs, by_peer.get(rows["beside"].get(name)), False)] if has_beside else []
            cells += [
                f"{_median(runs, 'busy'):.0%}",
                f"{_median(runs, 'load_busy'):.0%}",
                _resident(rows, runs),
                _errors(runs),
                "; ".join(notes(rows, name)),
            ]
            table.append(_row(cells))
    return table


def _paced_table(measured):
    head = ["case", "proxy", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "longest ms"]
    head += ["p99 spread", "generator late ms (p99)", "CPU µs", "CPU busy", "load busy", "errors", "note"]
    table = [_row(head), _row(["---"] * len(head))]
    for rows in measured:
        for name, runs in rows["runs"].items():
            cells = [f"{rows['case']}, {rows['connections']}", name, f"{runs[0]['rate']:,}"]
            cells += [f"{_median(runs, key) / 1000:.2f}" for key in TAILS]
            tails = [run["p99_us"] / 1000 for run in runs]
            cells += [f"{min(tails):.2f}–{max(tails):.2f}", f"{_median(runs, 'lag_p99_us') / 1000:.2f}"]
            cells += [f"{_median(runs, 'cpu_us'):.2f}", f"{_median(runs, 'busy'):.0%}"]
            cells += [f"{_median(runs, 'load_busy'):.0%}", _errors(runs), "; ".join(notes(rows, name))]
            table.append(_row(cells))
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
    return f"{goals.ratio(runs, others):.2f}"


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


def notes(rows, name):
    """What to distrust in a row: what else than the proxy set the figure."""
    runs, shards = rows["runs"][name], rows["shards"][name]
    found = []
    if rows["kind"] == "load" and _median(runs, "busy") < BUSY_ENOUGH:
        if _median(runs, "load_busy") < BUSY_ENOUGH:
            found.append("nobody's CPU is full: the way there and back sets the rate")
        else:
            found.append("rate limited by the load side")
    if rows["kind"] == "paced":
        if _median(runs, "lag_p99_us") > LAG * _median(runs, "p99_us"):
            found.append("the tail is in part the generator's own lateness")
        if _median(runs, "load_busy") > 0.95:
            found.append("the load's CPU is full: not a fixed rate")
    if rows["kind"] in ("load", "paced"):
        if shards == 1 and rows["case"] != "two-shards":  # there the load is one of the others
            marked = sum(1 for run in runs if run["others"] > STRANGERS)
            if marked:
                found.append(f"others on its CPU in {marked} of {len(runs)}")
        if any(run["stolen"] > STOLEN for run in runs):
            found.append("CPU stolen by the hypervisor")
    if rows["case"] == "soak":
        if any(abs(run["end_bytes"] / run["early_bytes"] - 1) > SOAK_GROWTH for run in runs):
            found.append(f"memory moved by more than {SOAK_GROWTH:.0%}")
    return found
