"""Plots as SVG, by hand: nothing to install, and they open anywhere."""

import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 1000, 220, 64, 16, 44, 30


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
