"""Plots as SVG, by hand: nothing to install, and they open anywhere."""

import html
import math
from statistics import median

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 1000, 220, 64, 16, 44, 30
BAR, LABEL = 20, 150
LONGEST_RATIO = 2.0
COLOURS = {"mantrid": "#1b6ca8", "haproxy": "#c0392b", "nginx": "#2e8b57", "floor": "#888", "ring-floor": "#bbb"}


def colour(kind):
    return COLOURS.get(kind, "#b57b2e")


def bars(runs, kinds, key, remarks):
    """A bar for each proxy, all to one scale; the thin line through its end is the spread of its runs."""
    longest = max(run[key] for own in runs.values() for run in own) or 1
    scale = (WIDTH - LABEL - 330) / longest
    parts = []
    for turn, (name, own) in enumerate(runs.items()):
        y, middle = turn * (BAR + 6), median(run[key] for run in own)
        low, high = (LABEL + edge([run[key] for run in own]) * scale for edge in (min, max))
        remark = f"  {remarks[name]}" if remarks.get(name) else ""
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{LABEL}" y="{y}" width="{max(middle, 0) * scale:.1f}" height="{BAR}"'
            f' fill="{colour(kinds[name])}" rx="2"/>'
            f'<path d="M{low:.1f} {y + BAR / 2}H{high:.1f}" stroke="currentColor"/>'
            f'<text x="{max(high, LABEL + middle * scale) + 6:.1f}" y="{y + 15}">{middle:,.1f}'
            f'<tspan style="font-size:10px;opacity:.75">{html.escape(remark)}</tspan></text>'
        )
    return svg(len(runs) * (BAR + 6), parts)


def ratios(groups):
    """Groups of (label, bars), a bar being (name, kind, ratio, target or None); a line stands at 1."""
    scale = (WIDTH - LABEL - 190) / LONGEST_RATIO
    thin, y, parts = 13, 4, []
    for label, own in groups:
        middle = y + len(own) * thin / 2
        parts.append(f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{html.escape(label)}</text>')
        for name, kind, ratio, target in own:
            parts.append(
                f'<rect x="{LABEL}" y="{y}" width="{min(ratio, LONGEST_RATIO) * scale:.1f}" height="{thin - 2}"'
                f' fill="{colour(kind)}"/>'
            )
            if target:
                at = LABEL + target * scale
                parts.append(f'<path d="M{at:.1f} {y - 1}v{thin}" stroke="currentColor" stroke-width="3"/>')
            end = LABEL + min(max(ratio, target or 0), LONGEST_RATIO) * scale + 8
            of = f"{ratio:.2f} of {html.escape(name)}"
            parts.append(f'<text x="{end:.1f}" y="{y + 10}" style="font-size:11px">{of}</text>')
            y += thin
        y += 9
    at = LABEL + scale
    parts.append(f'<path d="M{at:.1f} 0V{y}" stroke="currentColor" stroke-dasharray="4 3"/>')
    return svg(y, parts)


PERCENTILES = (
    ("p50_us", "50 %"),
    ("p90_us", "90 %"),
    ("p99_us", "99 %"),
    ("p999_us", "99.9 %"),
    ("max_us", "longest"),
)


def percentiles(runs, kinds):
    """A line for each proxy from the median to the longest, on a scale of powers of ten."""
    lines = {name: tail(own) for name, own in runs.items()}
    marks = {name: (colour(kinds[name]), "") for name in runs}
    return curves(lines, marks, [label for _, label in PERCENTILES])


def tail(runs):
    """Milliseconds at each of the percentiles, medians of the runs."""
    return [median(run[key] for run in runs) / 1000 for key, _ in PERCENTILES]


def curves(lines, marks, labels, paper=""):
    """Named lines of milliseconds, a value above each label; `marks`: a colour and a pattern of dashes each.
    `paper` is the colour behind them, for a file of its own."""
    top, bottom, left = 12, 250, LEFT
    every = [max(value, 1e-3) for own in lines.values() for value in own]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)) + 0.01)
    step = (WIDTH - left - 260) / (len(labels) - 1)
    up = lambda value: bottom - (math.log10(max(value, 1e-3)) - low) / (high - low) * (bottom - top)  # noqa: E731
    parts = [f'<rect width="100%" height="100%" fill="{paper}"/>'] if paper else []
    for power in range(low, high + 1):
        y = up(10.0**power)
        parts.append(f'<path d="M{left} {y:.1f}H{left + step * (len(labels) - 1):.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g} ms</text>')
    for turn, label in enumerate(labels):
        parts.append(f'<text x="{left + turn * step:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    # Names stand in the order of the ends of their lines, and never upon each other.
    beside = -math.inf
    for name, own in sorted(lines.items(), key=lambda item: -item[1][-1]):
        shade, dashes = marks[name]
        points = " ".join(f"{left + turn * step:.1f},{up(value):.1f}" for turn, value in enumerate(own))
        beside = max(up(own[-1]), beside + 15)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{shade}" stroke-width="2.5"'
            f' stroke-dasharray="{dashes}"/>'
            f'<text x="{left + step * (len(labels) - 1) + 8:.1f}" y="{beside + 4:.1f}">{html.escape(name)},'
            f" {own[-1]:.1f} ms</text>"
        )
    return svg(max(bottom + 26, beside + 10), parts)


def svg(height, parts):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
        ' font-family="system-ui,sans-serif" font-size="12">'
        + "".join(parts)
        + "</svg>"
    )


def restarts(outcomes):
    """Latency of every request over time, a panel for each way, with the restarts as bands."""
    panels = []
    for turn, (way, outcome) in enumerate(outcomes.items()):
        panels.append(panel(way, outcome, TOP + turn * (HEIGHT + GAP + 20)))
    height = TOP + len(panels) * (HEIGHT + GAP + 20)
    style = (
        "text{font:12px system-ui,sans-serif;fill:#334}.t{font-weight:600}"
        ".g{stroke:#dde;stroke-width:1}.b{fill:#f4c95d;opacity:.35}"
        ".r,.w{fill:none;stroke-width:3;stroke-linecap:round}.r{stroke:#1b6ca8;opacity:.6}"
        ".w{stroke:#c0392b}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="t" x="{LEFT}" y="20">Time from due to answered, each request a dot; '
        f"shaded: the application is away</text>" + "".join(panels) + "</svg>\n"
    )


def panel(way, outcome, top):
    requests = outcome["requests"]
    end = max(at + taken for at, taken, _ in requests)
    low, high = -4, math.ceil(math.log10(max(taken for _, taken, _ in requests)) + 0.01)
    across = lambda at: LEFT + at / end * (WIDTH - LEFT - RIGHT)  # noqa: E731
    up = lambda taken: top + HEIGHT - (math.log10(max(taken, 1e-4)) - low) / (high - low) * HEIGHT  # noqa: E731
    parts = [f'<text class="t" x="{LEFT}" y="{top - 6}">{way}</text>']
    for start, over in outcome["restarts"]:
        width = max(across(over) - across(start), 0.5)
        parts.append(
            f'<rect class="b" x="{across(start):.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}"/>'
        )
    for power in range(low, high + 1):
        label = f"{10.0 ** power * 1000:g} ms"
        y = up(10.0**power)
        parts.append(f'<path class="g" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    step = 10 ** math.floor(math.log10(end / 3))
    for turn in range(int(end / step) + 1):
        parts.append(
            f'<text x="{across(turn * step):.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">'
            f"{turn * step:g} s</text>"
        )
    # Dots that fall together are one, and all are one path: a plot of a long run stays small.
    for is_wrong in (False, True):
        dots = {(round(across(at)), round(up(taken))) for at, taken, what in requests if bool(what) == is_wrong}
        if dots:
            path, (before_x, before_y) = [], (0, 0)
            for x, y in sorted(dots):
                path.append(f"m{x - before_x} {y - before_y}h0")
                before_x, before_y = x, y
            parts.append(f'<path class="{"w" if is_wrong else "r"}" d="M0 0{"".join(path)}"/>')
    return "".join(parts)


def soak(samples, upgrades):
    """What a soak recorded over time: a panel for each series, with the upgrades as lines."""
    series = (
        ("memory, MiB", [(s["at"], s["memory"] / (1 << 20)) for s in samples]),
        ("descriptors", [(s["at"], s["descriptors"]) for s in samples]),
        ("requests a second", [(s["at"], s["rate"]) for s in samples if s["rate"] is not None]),
    )
    high, step = 150, 150 + GAP + 20
    end = max((s["at"] for s in samples), default=1.0)
    across = lambda at: LEFT + at / end * (WIDTH - LEFT - RIGHT)  # noqa: E731
    parts = []
    for turn, (title, points) in enumerate(series):
        top = TOP + turn * step
        most = max((value for _, value in points), default=1) * 1.1 or 1
        parts.append(f'<text class="t" x="{LEFT}" y="{top - 6}">{title}</text>')
        for part in range(5):
            y = top + high - part / 4 * high
            parts.append(f'<path class="g" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * part / 4:,.0f}</text>')
        for at in upgrades:
            parts.append(f'<path class="u" d="M{across(at):.1f} {top}V{top + high}"/>')
        line = " ".join(f"{across(at):.1f},{top + high - value / most * high:.1f}" for at, value in points)
        parts.append(f'<polyline class="l" points="{line}"/>')
        for part in range(5):
            parts.append(
                f'<text x="{across(end * part / 4):.1f}" y="{top + high + 16}" text-anchor="middle">'
                f"{end * part / 4:.0f} s</text>"
            )
    height = TOP + len(series) * step
    style = (
        "text{font:12px system-ui,sans-serif;fill:#334}.t{font-weight:600}.g{stroke:#dde}"
        ".u{stroke:#f4c95d;stroke-width:2}.l{fill:none;stroke:#1b6ca8;stroke-width:1.5}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="20">A soak; upright lines: '
        "an upgrade is over, a new process serves</text>" + "".join(parts) + "</svg>\n"
    )
