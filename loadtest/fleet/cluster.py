"""Starts members of etcd and nodes of Mantrid, and speaks to both: for `measure` and `chaos`. They are on loopback, or
each in a network namespace of its own.

Everything is in a folder of its own that goes with the cluster. Only processes that were started here are ended.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
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


def enter_namespace():
    """Begins this script anew in a network namespace of its own, whose name service is private too: whatever is made
    in it goes with the last process."""
    if os.environ.get("MANTRID_FLEET_NAMESPACE"):
        return
    script = "mkdir -p /run/netns && mount -t tmpfs none /run/netns && exec \"$@\""
    os.environ["MANTRID_FLEET_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "sh", "-c", script, "sh", sys.executable, *sys.argv])


class Loopback:
    """All processes on 127.0.0.1."""

    host, command = "127.0.0.1", ()


class Namespace:
    """A network namespace with one cable to the bridge that all of them share."""

    count = 0

    def __init__(self):
        if Namespace.count == 0:
            run("ip link set lo up", "ip link add bridge type bridge", "ip address add 10.77.0.1/24 dev bridge",
                "ip link set bridge up")
        Namespace.count += 1
        self.name = f"n{Namespace.count}"
        self.host = f"10.77.0.{Namespace.count + 1}"
        self.command = ("ip", "netns", "exec", self.name)
        run(f"ip netns add {self.name}", f"ip link add {self.name} type veth peer name eth0 netns {self.name}",
            f"ip link set {self.name} master bridge up", f"ip -n {self.name} link set lo up",
            f"ip -n {self.name} address add {self.host}/24 dev eth0", f"ip -n {self.name} link set eth0 up")

    def plug(self, is_in):
        """Puts the cable in, or pulls it: what is open then is half open."""
        run(f"ip link set {self.name} {'up' if is_in else 'down'}")


def run(*commands):
    for command in commands:
        subprocess.run(command.split(), check=True)


class Member:
    """One member of etcd."""

    def __init__(self, cluster, name, client, peer):
        self.cluster, self.name, self.client, self.peer = cluster, name, client, peer
        self.place = cluster.place()
        self.url = f"http://{self.place.host}:{client}"
        self.peer_url = f"http://{self.place.host}:{peer}"
        self.process = None

    def start(self):
        peers = ",".join(f"{m.name}={m.peer_url}" for m in self.cluster.members)
        peer = self.peer_url
        log = open(f"{self.cluster.folder}/{self.name}.log", "ab")
        self.process = subprocess.Popen(
            [*self.place.command, "etcd", "--name", self.name, "--data-dir", f"{self.cluster.folder}/{self.name}",
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
        self.place = cluster.place()
        self.folder = f"{cluster.folder}/node-{name}"
        os.makedirs(f"{self.folder}/static", exist_ok=True)
        self.process = None
        self.connection, self.used = None, 0
        self.clock = None

    def use_clock(self, library):
        """Has the node read the wall clock through a library that `jump` sets."""
        self.clock = (library, f"{self.folder}/clock")
        with open(self.clock[1], "wb") as file:
            file.write(bytes(8))

    def jump(self, seconds):
        """Sets the wall clock of the node so many seconds from what it is."""
        # In place: the node has it mapped.
        with open(self.clock[1], "r+b") as file:
            file.write(struct.pack("=q", seconds))

    def start(self, *more):
        host = self.place.host
        options = {
            "bind": f"{host}:{self.client_port}", "bind_management": f"{host}:{self.port}",
            "management_insecure": "true", "fleet_insecure": "true",
            "state_file": f"{self.folder}/state.json", "static_dir": f"{self.folder}/static",
            "shards": 1, "fleet": "test", "fleet_node": self.name, "uid": 0, "gid": 0,
        }
        arguments = [f"-o{key}={value}" for key, value in options.items()]
        arguments += [f"-ofleet_endpoints={url}" for url in self.cluster.urls()]
        log = open(f"{self.folder}/log", "ab")
        environment = dict(os.environ)
        if self.clock:
            environment.update(LD_PRELOAD=self.clock[0], MANTRID_CLOCK=self.clock[1])
        command = [*self.place.command, os.path.abspath(PROGRAM), *arguments, *more]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

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
            self.connection = http.client.HTTPConnection(self.place.host, self.port, timeout=120)
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
    def __init__(self, members=3, nodes=3, etcd_arguments=(), place=Loopback):
        self.place = place
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
