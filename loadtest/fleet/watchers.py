"""A fleet of hundreds of nodes, as etcd sees it: so many watches on the log of one real node, through etcd's JSON gateway.
Measures the time from the call that makes a change until the last watch has it, and etcd's CPU time.

    MANTRID=target/release/mantrid python3 loadtest/fleet/watchers.py [WATCHES [CHANGES_PER_SECOND [SECONDS]]]
"""

import asyncio
import base64
import json
import sys
import time

from cluster import Cluster
from measure import one_change, percentiles


def watch_request():
    encode = lambda text: base64.b64encode(text.encode()).decode()
    start, end = "/mantrid/test/live/log/", "/mantrid/test/live/log0"
    body = json.dumps({"create_request": {"key": encode(start), "range_end": encode(end)}}).encode()
    return b"POST /v3/watch HTTP/1.1\r\nHost: etcd\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class Watches:
    def __init__(self):
        self.ready, self.arrivals = 0, {}

    async def follow(self, member, wanted):
        """Notes when each change has come on one connection: entries of the log come in order."""
        reader, writer = await asyncio.open_connection("127.0.0.1", member.client, limit=1 << 20)
        writer.write(watch_request())
        count = 0
        while count < wanted:
            line = await reader.readline()
            if not line:
                raise SystemExit("etcd has closed a watch")
            if b'"created":true' in line:
                self.ready += 1
            elif b'"events"' in line:
                now = time.monotonic()
                for _ in range(line.count(b'"kv"')):
                    self.arrivals.setdefault(count, []).append(now)
                    count += 1
        writer.close()


async def run(cluster, watches, rate, seconds):
    wanted, state, begun = rate * seconds, Watches(), []
    following = [asyncio.create_task(state.follow(cluster.members[at % 3], wanted)) for at in range(watches)]
    while state.ready < watches:
        await asyncio.sleep(0.05)
    before = [member.cpu() for member in cluster.members]
    start = time.monotonic()

    def change():
        for at in range(wanted):
            time.sleep(max(0, start + at / rate - time.monotonic()))
            begun.append(time.monotonic())
            one_change(cluster.nodes[0], at)

    await asyncio.to_thread(change)
    await asyncio.wait_for(asyncio.gather(*following), 60)
    took = time.monotonic() - start
    last = [max(state.arrivals[at]) - began for at, began in enumerate(begun)]
    every = [arrival - began for at, began in enumerate(begun) for arrival in state.arrivals[at]]
    cpu = [100 * (member.cpu() - then) / took for member, then in zip(cluster.members, before)]
    print(f"{watches} watches, {wanted / took:.1f} changes/s: a change is at one watch after {percentiles(every)}; "
          f"at the last after {percentiles(last)}; CPU of etcd's members: {[f'{share:.0f} %' for share in cpu]}")


def main():
    watches, rate, seconds = [int(word) for word in sys.argv[1:]] + [500, 20, 20][len(sys.argv) - 1:]
    with Cluster(nodes=1) as cluster:
        cluster.start_nodes()
        asyncio.run(run(cluster, watches, rate, seconds))


if __name__ == "__main__":
    main()
