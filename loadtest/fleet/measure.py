"""Measures what docs/fleet.md promises: three members of etcd and three nodes on this machine.

    MANTRID=target/release/mantrid python3 loadtest/fleet/measure.py [latency|changes|million|fold|all]
"""

import json
import sys
import threading
import time

from cluster import Cluster, Node, free_ports


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
    conflicts = [metric(node, "mantrid_fleet_conflicts_total") for node in cluster.nodes]
    print(f"conflicts: {conflicts}")
    cluster.equal()


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


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    for name, measure in (("latency", latency), ("changes", changes), ("million", million)):
        if wanted in (name, "all"):
            with Cluster() as cluster:
                cluster.start_nodes()
                time.sleep(1)
                measure(cluster)


if __name__ == "__main__":
    main()
