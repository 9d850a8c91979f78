"""Changes through all nodes at random, while members and nodes are killed, stopped and compacted; a client asks
each node all the time. Afterwards all tables must be equal byte for byte, every acknowledged change must be
there, and no request to a node that was up may have failed.

    MANTRID=target/release/mantrid python3 loadtest/fleet/chaos.py SECONDS [SEED]
"""

import http.client
import os
import random
import signal
import sys
import threading
import time

from cluster import Cluster


class Chaos:
    def __init__(self, cluster, seconds, seed):
        self.cluster, self.until = cluster, time.monotonic() + seconds
        self.random = random.Random(seed)
        self.acknowledged, self.unknown, self.refused = {}, {}, 0
        self.requests, self.failures = 0, []
        self.down = set()
        self.lock = threading.Lock()

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
            connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
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
            connection = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=10)
            try:
                connection.request("GET", "/", headers={"Host": "always.example.com"})
                answer = connection.getresponse()
                answer.read()
                self.requests += 1
                if answer.status != 418:
                    self.failures.append(f"{node.name}: {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                if node.name not in self.down:
                    self.failures.append(f"{node.name}: {error!r}")
            finally:
                connection.close()
            time.sleep(0.005)

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
            what = self.random.choice(["kill", "stop", "node", "stop-node", "defrag"])
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
                self.down.add(node.name)
                node.kill()
                time.sleep(self.random.uniform(0, 2))
                node.start()
                node.wait()
                self.down.discard(node.name)
            elif what == "stop-node":
                self.down.add(node.name)
                os.kill(node.process.pid, signal.SIGSTOP)
                time.sleep(self.random.uniform(0, 4))
                os.kill(node.process.pid, signal.SIGCONT)
                time.sleep(1)
                self.down.discard(node.name)
            else:
                self.cluster.etcdctl("defrag")

    def run(self):
        self.cluster.nodes[0].ask("PUT", "/hostname/always.example.com/?wait=fleet",
                                  ["empty", {"code": 418}, True])
        tasks = [(self.write, [index]) for index in range(4)]
        tasks += [(self.ask, [node]) for node in self.cluster.nodes]
        tasks += [(self.compact, []), (self.trouble, [])]
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
        print(f"{self.requests} requests, {len(self.failures)} failed {self.failures[:5]}")
        state = self.cluster.nodes[0].ask("GET", "/fleet/")
        print(f"entries: {state['sequence']}, rejected: {state['rejected']}")
        return not lost and not self.failures


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with Cluster() as cluster:
        cluster.start_nodes()
        chaos = Chaos(cluster, seconds, seed)
        chaos.run()
        if not chaos.check():
            raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
