"""The report as one HTML page that needs nothing else: what was measured, bars for each case, the table.

Bars are CPU time per request or MiB (shorter is better), all of a case to one scale; the thin line through the
end of a bar is the spread of its runs.
"""

import html
from statistics import median

from harness import report

COLOURS = {"mantrid": "#1b6ca8", "haproxy": "#c0392b", "nginx": "#2e8b57", "floor": "#888"}
WIDTH, BAR, LABEL = 760, 20, 110

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#223}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}figure{margin:1.2rem 0}
figcaption{font-weight:600}svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#334}
pre{overflow:auto;background:#f4f5f7;padding:1rem;font-size:12px}small{color:#667}
@media (prefers-color-scheme:dark){body{background:#14181d;color:#dde}svg text{fill:#ccd}pre{background:#1d232b}}
"""


def write(path, result):
    about = result["machine"]
    peers = {peer["name"]: peer for peer in result["peers"]}
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>Mantrid: load test of {result['date']}</title><style>{STYLE}</style>",
        f"<h1>Load test of {result['date']}</h1>",
        f"<p>{html.escape(about['cpu'])}, {about['cpus']} CPUs, {about['memory_gib']} GiB, Linux"
        f" {about['kernel']}; source {about['commit']}. Proxy on one CPU, load and backend on another;"
        f" {result['options']['rounds']} rounds of {result['options']['seconds']} s, alternating.</p><ul>",
    ]
    parts += [
        f"<li><b>{html.escape(peer['name'])}</b>: {html.escape(peer['version'])}"
        for peer in result["peers"]
    ]
    parts.append("</ul><h2>CPU time: shorter is better</h2>")
    for rows in result["measured"]:
        if rows["kind"] == "load":
            parts.append(_bars(rows, peers, "cpu_us", f"µs per {rows['unit']}"))
    if any(rows["kind"] == "paced" for rows in result["measured"]):
        parts.append("<h2>Latency at a fixed rate, from when each request was due</h2>")
    for rows in result["measured"]:
        if rows["kind"] == "paced":
            for key, name in (("p50_us", "half"), ("p99_us", "99 %"), ("p999_us", "99.9 %")):
                parts.append(_bars(rows, peers, key, f"µs, {name} of the requests within"))
    parts.append("<h2>All of it</h2><pre>")
    parts.append(html.escape(report.markdown(result)))
    parts.append("</pre>")
    path.write_text("\n".join(parts) + "\n")


def _bars(rows, peers, key, unit):
    values = {name: [run[key] for run in runs] for name, runs in rows["runs"].items() if runs}
    longest = max(max(each) for each in values.values()) or 1
    scale = (WIDTH - LABEL - 90) / longest
    lines = []
    for turn, (name, each) in enumerate(values.items()):
        colour = COLOURS.get(peers[name]["kind"], "#555")
        y, middle = turn * (BAR + 6), median(each)
        low, high = (LABEL + edge * scale for edge in (min(each), max(each)))
        lines.append(
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{LABEL}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" fill="{colour}" rx="2"/>'
            f'<path d="M{low:.1f} {y + BAR / 2}H{high:.1f}" stroke="currentColor"/>'
            f'<text x="{max(high, LABEL + middle * scale) + 6:.1f}" y="{y + 15}">{middle:,.1f}</text>'
        )
    height = len(values) * (BAR + 6)
    caption = f"{rows['case']}, {rows['connections']} connections <small>({unit})</small>"
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{rows["case"]}">'
        + "".join(lines)
        + "</svg></figure>"
    )
