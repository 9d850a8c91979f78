"""Changes through all nodes at random, while members and nodes are killed, stopped, cut off from the network, compacted
and defragmented, and their clocks jump; a client asks each node all the time, and hosts are held and flipped.
Afterwards all tables must be equal byte for byte, every acknowledged change must be there, and no request to a node
that was up may have failed.

    MANTRID=target/release/mantrid python3 loadtest/fleet/chaos.py [--namespaces] SECONDS [SEED]

With `--namespaces` (as root) each member and node has a network namespace of its own, whose cable is pulled now and then.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster import Cluster, Loopback, Namespace, enter_namespace

DAY = 24 * 3600
CLOCK = Path(__file__).resolve().parent.parent.parent / "tests/data/clock.c"


class Chaos:
    def __init__(self, cluster, seconds, seed):
        self.cluster, self.began = cluster, time.monotonic()
        self.until = self.began + seconds
        self.random = random.Random(seed)
        self.acknowledged, self.unknown, self.refused = {}, {}, 0
        self.requests, self.failures = 0, []
        self.held, self.troubles = 0, {}
        self.down, self.downs = set(), {}
        self.kinds = ["kill", "stop", "node", "stop-node", "defrag"]
        self.kinds += ["clock"] if cluster.nodes[0].clock else []
        self.kinds += ["partition"] if cluster.place is Namespace else []
        self.lock = threading.Lock()

    def seconds(self):
        return time.monotonic() - self.began

    def is_over(self):
        return self.until < time.monotonic()

    def write(self, index):
        """Each writer has names of its own, so that the last acknowledged value of each is known."""
        choose, count = random.Random(index), 0
        while not self.is_over():
            node = choose.choice(self.cluster.nodes)
            name = f"w{index}-{choose.randrange(200)}.example.com"
            code = 200 + count % 300
            count += 1
            connection = http.client.HTTPConnection(node.place.host, node.port, timeout=30)
            try:
                connection.request("PUT", f"/hostname/{name}/", f'["empty", {{"code": {code}}}, true]')
                answer = connection.getresponse()
                body = answer.read()
                with self.lock:
                    if answer.status == 200:
                        self.acknowledged[name] = code
                        self.unknown.pop(name, None)
                    elif b"may have been made" in body or b"change is made" in body:
                        self.unknown.setdefault(name, set()).add(code)
                    else:
                        self.refused += 1
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.unknown.setdefault(name, set()).add(code)
            finally:
                connection.close()

    def ask(self, node):
        """Requests to one node; none may fail while it is up."""
        while not self.is_over():
            if node.name in self.down:
                time.sleep(0.05)
                continue
            connection = http.client.HTTPConnection(node.place.host, node.client_port, timeout=10)
            try:
                connection.request("GET", "/", headers={"Host": "always.example.com"})
                answer = connection.getresponse()
                page = answer.read()
                self.requests += 1
                if answer.status != 418:
                    self.failures.append(f"{node.name}: {answer.status} {page[:60]} at {self.seconds():.1f} s")
            except (OSError, http.client.HTTPException) as error:
                if node.name not in self.down:
                    self.failures.append(f"{node.name}: {error!r}")
            finally:
                connection.close()
            time.sleep(0.005)

    def hold(self):
        """Holds a host, asks for it on each node that is up, and flips it: each request must be answered by the flip."""
        count = 0
        while not self.is_over():
            count += 1
            host = f"held-{count % 50}.example.com"
            up = [node for node in self.cluster.nodes if node.name not in self.down]
            if not up or not self.change(up[0], host, ["spin", {"timeout": 300}, True], "?wait=fleet&timeout=5s"):
                time.sleep(0.1)
                continue
            asking = [threading.Thread(target=self.ask_held, args=[node, host]) for node in up]
            for thread in asking:
                thread.start()
            while not self.change(random.choice(self.cluster.nodes), host, ["empty", {"code": 418}, True]):
                time.sleep(0.1)
            for thread in asking:
                thread.join()

    def change(self, node, host, rule, query=""):
        # A node that is cut off does not keep a flip from the others for as long as requests are held.
        connection = http.client.HTTPConnection(node.place.host, node.port, timeout=8)
        try:
            connection.request("PUT", f"/hostname/{host}/{query}", json.dumps(rule))
            answer = connection.getresponse()
            body = json.loads(answer.read())
            return answer.status == 200 and "lagging" not in json.dumps(body)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ask_held(self, node, host):
        downs = self.downs.get(node.name, 0)
        connection = http.client.HTTPConnection(node.place.host, node.client_port, timeout=330)
        try:
            connection.request("GET", "/", headers={"Host": host})
            status = connection.getresponse().status
            if status != 418:
                self.failures.append(f"{node.name}: held: {status}")
            self.held += 1
        except (OSError, http.client.HTTPException) as error:
            if node.name not in self.down and downs == self.downs.get(node.name, 0):
                self.failures.append(f"{node.name}: held: {error!r}")
        finally:
            connection.close()

    def compact(self):
        while not self.is_over():
            time.sleep(1)
            answer = self.cluster.etcdctl("get", "ready", "-w", "fields").stdout
            revision = [line for line in answer.splitlines() if line.startswith('"Revision"')]
            if revision:
                self.cluster.etcdctl("compact", revision[0].split(":")[1].strip())

    def trouble(self):
        while not self.is_over():
            time.sleep(self.random.uniform(0.5, 3))
            what = self.random.choice(self.kinds)
            self.troubles[what] = self.troubles.get(what, 0) + 1
            member = self.random.choice(self.cluster.members)
            node = self.random.choice(self.cluster.nodes)
            if what == "kill":
                member.kill()
                time.sleep(self.random.uniform(0, 2))
                member.start()
            elif what == "stop":
                os.kill(member.process.pid, signal.SIGSTOP)
                time.sleep(self.random.uniform(0, 4))
                os.kill(member.process.pid, signal.SIGCONT)
            elif what == "node":
                self.leave_out(node)
                node.kill()
                time.sleep(self.random.uniform(0, 2))
                node.start()
                node.wait()
                self.down.discard(node.name)
            elif what == "clock":
                node.jump(self.random.choice([0, 60, -60, 30 * DAY, -30 * DAY]))
            elif what == "partition":
                one = self.random.choice([member, node])
                if one is node:
                    # Its clients are cut off from it, too.
                    self.leave_out(node)
                one.place.plug(False)
                time.sleep(self.random.uniform(0, 12))
                one.place.plug(True)
                time.sleep(2)
                self.down.discard(one.name)
            elif what == "stop-node":
                self.leave_out(node)
                os.kill(node.process.pid, signal.SIGSTOP)
                time.sleep(self.random.uniform(0, 4))
                os.kill(node.process.pid, signal.SIGCONT)
                time.sleep(1)
                self.down.discard(node.name)
            else:
                self.cluster.etcdctl("defrag")

    def leave_out(self, node):
        """Requests to a node may fail from here on."""
        self.down.add(node.name)
        self.downs[node.name] = self.downs.get(node.name, 0) + 1

    def run(self):
        self.cluster.nodes[0].ask("PUT", "/hostname/always.example.com/?wait=fleet",
                                  ["empty", {"code": 418}, True])
        held = {f"held-{at}.example.com": ["empty", {"code": 418}, True] for at in range(50)}
        self.cluster.nodes[0].ask("PATCH", "/hostname/?wait=fleet", held)
        tasks = [(self.write, [index]) for index in range(4)]
        tasks += [(self.ask, [node]) for node in self.cluster.nodes]
        tasks += [(self.compact, []), (self.trouble, []), (self.hold, [])]
        threads = [threading.Thread(target=task, args=arguments) for task, arguments in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check(self):
        for node in self.cluster.nodes:
            node.connection = None
        tag, body = self.cluster.equal(120)
        table = self.cluster.nodes[0].ask("GET", "/hostname/")
        lost = []
        for name, code in self.acknowledged.items():
            found = table.get(name, [None, {}])[1].get("code")
            if found != code and found not in self.unknown.get(name, set()):
                lost.append((name, code, found))
        print(f"equal: {len(table)} rules, {len(body)} bytes, {tag} on all nodes")
        print(f"{len(self.acknowledged)} names acknowledged, {len(lost)} lost {lost[:5]}; "
              f"{sum(map(len, self.unknown.values()))} of unknown outcome, {self.refused} refused")
        print(f"troubles: {self.troubles}; {self.held} held requests answered by their flip")
        print(f"{self.requests} requests, {len(self.failures)} failed {self.failures[:5]}")
        state = self.cluster.nodes[0].ask("GET", "/fleet/")
        print(f"entries: {state['sequence']}, rejected: {state['rejected']}")
        return not lost and not self.failures


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--namespaces"]
    place = Loopback
    if len(arguments) < len(sys.argv) - 1:
        enter_namespace()
        place = Namespace
    seconds = float(arguments[0]) if arguments else 60
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    with Cluster(place=place) as cluster:
        library = f"{cluster.folder}/clock.so"
        built = subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, CLOCK], check=False)
        for node in cluster.nodes if built.returncode == 0 else []:
            node.use_clock(library)
        cluster.start_nodes()
        chaos = Chaos(cluster, seconds, seed)
        chaos.run()
        if not chaos.check():
            raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
