"""Measures what docs/fleet.md promises: three members of etcd and three nodes on this machine.

    MANTRID=target/release/mantrid python3 loadtest/fleet/measure.py [latency|changes|folding|million|all|away] [PLOT.svg]

A plot has the percentiles of the times that were measured.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import plot  # noqa: E402

from cluster import Cluster, Node, free_ports


SHARES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
MEASURED = {}


def keep(name, times):
    """Notes what a plot shows: the percentiles of times, in milliseconds."""
    times = sorted(times)
    MEASURED[name] = [times[min(len(times) - 1, int(len(times) * share))] * 1e3 for share in SHARES.values()]


def percentiles(times):
    times = sorted(times)
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))] * 1e3
    return f"p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, longest {times[-1] * 1e3:.1f} ms"


def rule(code):
    return ["empty", {"code": code}, True]


def one_change(node, at, query=""):
    began = time.monotonic()
    node.ask("PUT", f"/hostname/host-{at}.example.com/{query}", rule(200 + at % 200))
    return time.monotonic() - began


def latency(cluster, count=2000):
    for query in ("", "?wait=fleet"):
        times = [one_change(cluster.nodes[0], at, query) for at in range(count)]
        print(f"latency {query or 'without waiting'}: {percentiles(times)}, "
              f"{count / sum(times):.0f} changes/s one at a time")
        keep("in force on all nodes" if query else "in force here", times)
    cluster.equal()


def changes(cluster):
    node = cluster.nodes[0]
    batch = 1000
    began = time.monotonic()
    for start in range(0, 40_000, batch):
        rules = {f"batch-{at}.example.com": rule(200 + at % 200)
                 for at in range(start, start + batch)}
        node.ask("PATCH", "/hostname/", rules)
    took = time.monotonic() - began
    print(f"batches of {batch}: {40_000 / took:.0f} rules/s")
    failures, times = [], []

    def write(node):
        for at in range(500):
            try:
                times.append(one_change(node, at))
            except Exception as error:
                failures.append(str(error))

    began = time.monotonic()
    threads = [threading.Thread(target=write, args=[node]) for node in cluster.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    print(f"three writers at once: {1500 / took:.0f} changes/s, {percentiles(times)}, "
          f"{len(failures)} failures {failures[:2]}")
    keep("three writers at once", times)
    conflicts = [metric(node, "mantrid_fleet_conflicts_total") for node in cluster.nodes]
    print(f"conflicts: {conflicts}")
    cluster.equal()


def folding(cluster, count=300_000):
    """Changes at one node, while a table of 300,000 rules is folded."""
    folds = lambda: sum(Path(f"{node.folder}/log").read_text().count("folded the log") for node in cluster.nodes)
    table = lambda turn: {f"host-{at}.example.com": ["proxy", {"backends": [f"127.0.0.1:{8000 + (at + turn) % 1000}"]}, True]
                          for at in range(count)}
    cluster.nodes[0].ask("PUT", "/hostname/?wait=fleet&timeout=100s", table(0))
    while folds() == 0:
        time.sleep(0.1)
    before, times = folds(), []
    for node in cluster.nodes:
        node.connection = None
    cluster.nodes[0].ask("PATCH", "/hostname/?wait=fleet&timeout=100s", table(1))
    until = time.monotonic() + 30
    while time.monotonic() < until and (len(times) % 50 or folds() == before):
        times.append(one_change(cluster.nodes[1], len(times)))
    print(f"latency while a base of {count} rules is folded: {percentiles(times)}")
    keep("while a base is folded", times)


def metric(node, name):
    _, _, body = node.send("GET", "/metrics")
    for line in body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmRSS"))


def million(cluster, count=1_000_000):
    rules = {f"host-{at}.example.com": ["proxy", {"backends": [f"127.0.0.1:{8000 + at % 1000}"]}, True]
             for at in range(count)}
    body = json.dumps(rules).encode()
    began = time.monotonic()
    status, _, answer = cluster.nodes[0].send("PUT", "/hostname/?wait=fleet&timeout=300s", body)
    print(f"{count} rules, {len(body) / 1e6:.0f} MB: PUT until all nodes have it: "
          f"{time.monotonic() - began:.1f} s: {status} {answer[:200].decode()}")
    print("memory of nodes, MiB:", [resident(node.process.pid) for node in cluster.nodes],
          "of etcd:", [resident(member.process.pid) for member in cluster.members])
    wait_for_fold(cluster)
    times = []
    fresh = Node(cluster, "fresh", *free_ports(2))
    began = time.monotonic()
    fresh.start()
    fresh.wait(120)
    print(f"a fresh node joins in {time.monotonic() - began:.1f} s")
    fresh.stop()
    node = cluster.nodes[2]
    node.stop()
    began = time.monotonic()
    node.start()
    node.wait(120)
    print(f"a restart with nothing new: {time.monotonic() - began:.1f} s; "
          f"{'joined' in node.log().split('rules from')[-1]=} (nothing is to be loaded)")
    cluster.nodes[0].connection = None
    for at in range(500):
        times.append(one_change(cluster.nodes[0], at))
    print(f"latency at a million rules: {percentiles(times)}")


def wait_for_fold(cluster):
    """Changes are measured while the base is written."""
    times, began = [], time.monotonic()
    for node in cluster.nodes:
        # The connection may have been idle for too long.
        node.connection = None
    while time.monotonic() - began < 120:
        times.append(one_change(cluster.nodes[0], len(times)))
        if any("folded the log" in node.log() for node in cluster.nodes):
            break
        time.sleep(0.01)
    print(f"latency until the base was folded ({time.monotonic() - began:.0f} s): "
          f"{percentiles(times)}")


def away(cluster, seconds=600):
    """All of etcd is gone for ten minutes: requests go on, changes are refused, and then all is as it was."""
    cluster.nodes[0].ask("PUT", "/hostname/always.example.com/?wait=fleet", rule(218))
    for member in cluster.members:
        member.kill()
    until, requests, failures, refusals = time.monotonic() + seconds, 0, [], {}
    while time.monotonic() < until:
        for node in cluster.nodes:
            connection = http.client.HTTPConnection(node.place.host, node.client_port, timeout=10)
            try:
                connection.request("GET", "/", headers={"Host": "always.example.com"})
                status = connection.getresponse().status
                requests += 1
                if status != 218:
                    failures.append(status)
            except OSError as error:
                failures.append(error)
            connection.close()
        if requests % 300 == 0:
            status, _, body = cluster.nodes[requests % 3].send("DELETE", "/hostname/always.example.com/")
            told = (status, json.loads(body)["error"])
            refusals[told] = refusals.get(told, 0) + 1
        time.sleep(0.02)
    for member in cluster.members:
        member.start()
    began = time.monotonic()
    while not all(node.ask("GET", "/fleet/")["connected"] for node in cluster.nodes):
        time.sleep(0.05)
    print(f"etcd away for {seconds} s: {requests} requests, {len(failures)} failed {failures[:3]}; changes: {refusals}; "
          f"connected again after {time.monotonic() - began:.1f} s")
    one_change(cluster.nodes[1], 0)
    cluster.equal()


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    for name, measure in (("latency", latency), ("changes", changes), ("folding", folding), ("million", million)):
        if wanted in (name, "all"):
            with Cluster() as cluster:
                cluster.start_nodes()
                time.sleep(1)
                measure(cluster)
    if wanted == "away":
        with Cluster() as cluster:
            cluster.start_nodes()
            away(cluster)
    if 2 < len(sys.argv):
        shades = dict(zip(MEASURED, [("#1b6ca8", ""), ("#2e8b57", ""), ("#b57b2e", ""), ("#c0392b", "6 3")]))
        Path(sys.argv[2]).write_text(plot.curves(MEASURED, shades, list(SHARES), "#fff"))


if __name__ == "__main__":
    main()
