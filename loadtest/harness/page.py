"""The report as one HTML page that needs nothing else: verdict, ratios, latencies, costs, then every table."""

import html
import re

from harness import goals, plot, report
from harness.peers import FLOORS

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#223}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}figure{margin:1.2rem 0}
figcaption{font-weight:600}svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#334}
.wide{overflow:auto}table{border-collapse:collapse;font-size:12px}small{color:#667;font-weight:400}
td,th{padding:.2rem .6rem;border-bottom:1px solid #d5d9e0;text-align:left;vertical-align:top}
td{font-variant-numeric:tabular-nums;white-space:nowrap}td:last-child{white-space:normal;min-width:16rem}
.met{color:#1d7a3c}.missed{color:#b3261e}
@media (prefers-color-scheme:dark){body{background:#14181d;color:#dde}svg text{fill:#ccd}
td,th{border-color:#333b45}.met{color:#6fce8b}.missed{color:#ff8a80}}
"""


def write(path, result):
    measured = result["measured"]
    title = f"Load test of {html.escape(result['date'])}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>Mantrid: {title}</title><style>{STYLE}</style><h1>{title}</h1>",
        f"<p>{html.escape(report.about(result))}</p><ul>",
    ]
    for peer in result["peers"]:
        caveat = f" ({peer['caveat']})" if peer["caveat"] else ""
        parts.append(f"<li><b>{html.escape(peer['name'])}</b>: {html.escape(peer['version'] + caveat)}")
    parts.append("</ul>")
    tables = report.tables(result)
    verdict = [lines for title, lines in tables if title == "Verdict"]
    if verdict:
        parts += ["<h2>Verdict</h2><div class=wide>", as_html(verdict[0]), "</div>"]
    if any(kind != "mantrid" for rows in measured for kind in rows["kinds"].values()):
        parts += ["<h2>Mantrid's cost as a share of the others': below 1 is a win</h2>", _ratios(measured)]
    paced = [rows for rows in measured if rows["kind"] == "paced"]
    if paced:
        parts.append("<h2>Latency at a fixed rate, from when each request was due</h2>")
    for rows in paced:
        rate = next(iter(rows["runs"].values()))[0]["rate"]
        caption = f"{rows['case']}, {rows['connections']} connections, {rate:,} requests a second"
        svg = plot.percentiles(rows["runs"], rows["kinds"])
        parts.append(_figure(caption, "ms; median of the rounds", svg))
    for kind, key, heading in (
        ("load", "cpu_us", "CPU time: shorter is better"),
        ("idle", "each_bytes", "Memory of an idle connection"),
        ("stalled", "each_bytes", "Memory for a client that stops reading"),
    ):
        wanted = [rows for rows in measured if rows["kind"] == kind]
        parts += [f"<h2>{heading}</h2>"] if wanted else []
        for rows in wanted:
            unit = f"µs per {rows['unit']}" if kind == "load" else "bytes each"
            caption = f"{rows['case']}, {rows['connections']} connections"
            remarks = {name: "; ".join(report.notes(rows, name)) for name in rows["runs"]}
            parts.append(_figure(caption, unit, plot.bars(rows["runs"], rows["kinds"], key, remarks)))
    parts.append("<h2>All of it</h2>")
    for title, lines in tables[1:] if verdict else tables:
        parts += [f"<h3>{title}</h3><div class=wide>", as_html(lines), "</div>"]
    path.write_text("\n".join(parts) + "\n")


def _ratios(measured):
    """One group of bars for each case in which we and somebody else took part."""
    groups = []
    for rows in measured:
        goal = goals.GOALS.get((rows["case"], rows["connections"]), goals.Goal())
        key = {"load": "cpu_us", "paced": goal.figure}.get(rows["kind"])
        variants = rows["beside"].values()
        ours = next((n for n, kind in rows["kinds"].items() if kind == "mantrid" and n not in variants), None)
        if not key or not ours:
            continue
        bars = [
            (name, kind, goals.ratio(rows["runs"][ours], rows["runs"][name], key), getattr(goal, kind, None))
            for name, kind in rows["kinds"].items()
            if kind in ("haproxy", "nginx", *FLOORS)
        ]
        if bars:
            what = " p99" if key == "p99_us" else ""
            groups.append((f"{rows['case']}, {rows['connections']}{what}", bars))
    return _figure("ratio to each", "a black mark is the target; bars end at 2", plot.ratios(groups))


def _figure(caption, unit, svg):
    return f"<figure><figcaption>{caption} <small>({unit})</small></figcaption>{svg}</figure>"


def as_html(lines):
    """The tables and sentences of a Markdown report; nothing else occurs in it."""
    parts, rows = [], []
    for line in [*lines, ""]:
        if line.startswith("|"):
            rows.append([_inline(cell.strip()) for cell in line.strip("|").split("|")])
            continue
        if rows:
            head, _, *body = rows
            parts.append("<table><tr>" + "".join(f"<th>{cell}" for cell in head))
            parts += ["<tr>" + "".join(f"<td>{cell}" for cell in row) for row in body]
            parts.append("</table>")
            rows = []
        if line:
            parts.append(f"<p>{_inline(line)}</p>")
    return "\n".join(parts)


def _inline(text):
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    text = text.replace("<b>met", "<b class=met>met")
    return text.replace("<b>missed", "<b class=missed>missed")
