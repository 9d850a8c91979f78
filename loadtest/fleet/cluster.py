"""Starts members of etcd and nodes of Mantrid on loopback, and speaks to both: for `measure` and `chaos`.

Everything is in a folder of its own that goes with the cluster. Only processes that were started here are ended.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PROGRAM = os.environ.get("MANTRID", "target/quick/mantrid")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Member:
    """One member of etcd."""

    def __init__(self, cluster, name, client, peer):
        self.cluster, self.name, self.client, self.peer = cluster, name, client, peer
        self.url = f"http://127.0.0.1:{client}"
        self.process = None

    def start(self):
        peers = ",".join(f"{m.name}=http://127.0.0.1:{m.peer}" for m in self.cluster.members)
        peer = f"http://127.0.0.1:{self.peer}"
        log = open(f"{self.cluster.folder}/{self.name}.log", "ab")
        self.process = subprocess.Popen(
            ["etcd", "--name", self.name, "--data-dir", f"{self.cluster.folder}/{self.name}",
             "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", peers, "--heartbeat-interval", "100", "--election-timeout", "1000",
             *self.cluster.etcd_arguments],
            stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def cpu(self):
        return cpu_seconds(self.process.pid)


class Node:
    """One daemon."""

    def __init__(self, cluster, name, port, client_port):
        self.cluster, self.name, self.port, self.client_port = cluster, name, port, client_port
        self.folder = f"{cluster.folder}/node-{name}"
        os.makedirs(f"{self.folder}/static", exist_ok=True)
        self.process = None
        self.connection, self.used = None, 0

    def start(self, *more):
        options = {
            "bind": f"127.0.0.1:{self.client_port}", "bind_management": f"127.0.0.1:{self.port}",
            "state_file": f"{self.folder}/state.json", "static_dir": f"{self.folder}/static",
            "shards": 1, "fleet": "test", "fleet_node": self.name, "uid": 0, "gid": 0,
        }
        arguments = [f"-o{key}={value}" for key, value in options.items()]
        arguments += [f"-ofleet_endpoints={url}" for url in self.cluster.urls()]
        log = open(f"{self.folder}/log", "ab")
        self.process = subprocess.Popen([PROGRAM, *arguments, *more], stdout=log, stderr=log)

    def wait(self, patience=60):
        until = time.monotonic() + patience
        while True:
            try:
                return self.ask("GET", "/fleet/")
            except OSError:
                if until < time.monotonic() or self.process.poll() is not None:
                    raise SystemExit(f"{self.name} is not there: {self.log()}") from None
                time.sleep(0.02)

    def log(self):
        with open(f"{self.folder}/log") as file:
            return file.read()[-3000:]

    def send(self, method, path, body=None, headers=None):
        """Status, fields and bytes of an answer. Idle connections are closed by the daemon now and then."""
        if self.connection is not None and self.used + 2 < time.monotonic():
            self.connection.close()
            self.connection = None
        self.used = time.monotonic()
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            self.connection.request(method, path, body, headers or {})
            answer = self.connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise

    def ask(self, method, path, value=None):
        body = None if value is None else json.dumps(value)
        status, _, body = self.send(method, path, body)
        if status != 200:
            raise RuntimeError(f"{self.name}: {method} {path}: {status} {body[:300]}")
        return json.loads(body)

    def table(self):
        """The ETag and the rules, as bytes."""
        status, headers, body = self.send("GET", "/hostname/")
        assert status == 200, (status, body)
        return headers["ETag"], body

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.connection = None


class Cluster:
    def __init__(self, members=3, nodes=3, etcd_arguments=()):
        self.folder = tempfile.mkdtemp(prefix="mantrid-fleet-")
        self.etcd_arguments = etcd_arguments
        ports = free_ports(2 * members + 2 * nodes)
        self.members = []
        for index in range(members):
            self.members.append(Member(self, f"m{index}", ports.pop(), ports.pop()))
        self.nodes = [Node(self, "abcdefgh"[at], ports.pop(), ports.pop()) for at in range(nodes)]

    def urls(self):
        return [member.url for member in self.members]

    def etcdctl(self, *arguments):
        return subprocess.run(["etcdctl", "--endpoints", ",".join(self.urls()), *arguments],
                              env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True)

    def __enter__(self):
        for member in self.members:
            member.start()
        until = time.monotonic() + 60
        while self.etcdctl("put", "ready", "1").returncode != 0:
            assert time.monotonic() < until, "etcd does not start"
        return self

    def start_nodes(self):
        for node in self.nodes:
            node.start()
            node.wait()

    def equal(self, patience=60):
        """Waits until all nodes have the same table under the same ETag."""
        until = time.monotonic() + patience
        while True:
            tables = [node.table() for node in self.nodes]
            if all(table == tables[0] for table in tables):
                return tables[0]
            if until < time.monotonic():
                raise SystemExit(f"tables differ: {[(tag, len(body)) for tag, body in tables]}")
            time.sleep(0.05)

    def __exit__(self, kind, *_):
        for one in [*self.nodes, *self.members]:
            if one.process and one.process.poll() is None:
                os.kill(one.process.pid, signal.SIGCONT)
                one.process.kill()
                one.process.wait()
        if kind is None or not os.environ.get("KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print("kept:", self.folder)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
