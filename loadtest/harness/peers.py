"""The proxies that are compared, and the backend behind all of them.

A peer is a name, a program and a template under loadtest/peers/; `@NAME@` in a template is filled in.
Every peer is started fresh for every measurement, with the same table, on the same CPUs.
"""

import json
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness import cases
from harness.process import Process, RunError

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent

KINDS = ("mantrid", "haproxy", "nginx")
# The relay that parses nothing, for those who ask what the kernel alone takes.
FLOOR = "floor"


@dataclass(frozen=True)
class Peer:
    """`kind` says how it is configured; `name` is its row in the report."""

    name: str
    kind: str
    program: str
    version: str


def find(kinds, mantrids):
    """The peers to run, in the order of their turns. `mantrids`: (name, path) pairs."""
    peers = []
    for kind in kinds:
        if kind == FLOOR:
            program = str(_built("--example", FLOOR))
            peers.append(Peer(kind, kind, program, "plain system calls, nothing parsed"))
        elif kind == "mantrid":
            for name, path in mantrids or [("mantrid", str(_built("--bin", "mantrid")))]:
                if not os.access(path, os.X_OK):
                    raise SystemExit(f"loadtest: {path} is no program (from --mantrid)")
                path = str(Path(path).resolve())
                peers.append(Peer(name, kind, path, _version(path, "--version")))
        else:
            program = program_path(kind)
            peers.append(Peer(kind, kind, program, _version(program, "-v")))
    return peers


def program_path(name):
    """A program by its environment variable (`HAPROXY=/path`), else from PATH or the sbin folders."""
    path = os.environ.get(name.upper())
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(path or name, path=search)
    if not found:
        where = f"{name.upper()}={path}" if path else name
        raise SystemExit(
            f"loadtest: {where} not found: apt-get install {name}, or {name.upper()}=/path/to/{name}"
        )
    return found


def takes_part(peer, case):
    """Debian's nginx-light relays no raw TCP, and the floor knows no more than one backend."""
    if peer.kind == "nginx":
        return case.mode == "http"
    return peer.kind != FLOOR or (case.kind == "load" and not case.close)


def _built(sort, name):
    """A program of ours, built now: yesterday's binary is the classic mistake."""
    build = ["cargo", "build", "--release", sort, name, "--message-format=json-render-diagnostics"]
    done = subprocess.run(build, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit("loadtest: cargo build --release failed; --mantrid PATH names a built one")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return Path(message["executable"])
    raise SystemExit(f"loadtest: cargo built no {name}")


def _version(program, option):
    """The first line that names a version; programs disagree on stdout or stderr."""
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Fixture:
    """The temporary folder of a run: table files, body files, configurations, logs."""

    def __init__(self, folder, cpus, load_cpu, descriptors):
        self.folder = Path(folder)
        self.cpus = cpus  # of the proxy: as many as shards are used of it
        self.load_cpu = load_cpu
        self.descriptors = descriptors
        self.backend_port = free_port()
        self._paced = None
        names = [cases.host(number) for number in range(cases.HOSTS)]
        backend = ["127.0.0.1", self.backend_port]
        rules = {name: ["proxy", {"backends": [backend]}, False] for name in names}
        self._write("state.json", json.dumps({"hosts": rules, "stats": {}}))
        self._write("haproxy.map", "".join(f"{name} app\n" for name in names))
        self._write("nginx.map", "".join(f"{name} app;\n" for name in names))
        for folder in ("static", "www"):
            (self.folder / folder).mkdir()
        for name, size in (("1k", 1 << 10), ("16k", 16 << 10), ("64k", 64 << 10), ("1m", 1 << 20), ("100m", 100 << 20)):
            self._write(f"www/{name}", "0123456789abcdef" * (size // 16))
        with open(self.folder / "www/512m", "wb") as hole:
            hole.truncate(512 << 20)  # nobody reads more of it than socket buffers hold

    @property
    def paced(self):
        """The open-loop load; built when it is wanted first."""
        self._paced = self._paced or str(_built("--example", "paced"))
        return self._paced

    def _write(self, name, text):
        with open(self.folder / name, "w") as file:
            file.write(text)

    def configuration(self, template, port, shards):
        """Fills a template in; returns the path of the result."""
        root = os.geteuid() == 0
        # Both sides of an exchange take a descriptor; some are for files, pipes and listeners.
        connections = max(min((self.descriptors - 400) // 3, 20_000), 100)
        values = {
            "DIR": str(self.folder),
            "PORT": str(port),
            "BACKEND_PORT": str(self.backend_port),
            "SHARDS": str(shards),
            "CPUS": ",".join(str(cpu) for cpu in self.cpus_for(shards)),
            "CONNECTIONS": str(connections),
            "DESCRIPTORS": str(self.descriptors),
            # nginx counts both sides.
            "WORKER_CONNECTIONS": str(min(self.descriptors - 100, 60_000)),
            "NGINX_USER": "user root;" if root else "",
            "MANTRID_IDS": "uid = 0\ngid = 0" if root else "",
        }
        text = (HERE / "peers" / template).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        self._write(template, text)
        return str(self.folder / template)

    def cpus_for(self, shards):
        """One shard: its own CPU. More: the next ones too, the load's among them if need be."""
        more = [cpu for cpu in sorted(os.sched_getaffinity(0)) if cpu not in self.cpus]
        cpus = (self.cpus + more)[:shards]
        if len(cpus) < shards:
            raise SystemExit(f"loadtest: {shards} shards need {shards} CPUs")
        return cpus

    def start_backend(self):
        program = program_path("nginx")
        path = self.configuration("backend.conf", self.backend_port, 1)
        command = [program, "-e", str(self.folder / "backend-error.log"), "-c", path]
        log = self.folder / "backend.log"
        backend = Process("the backend (nginx)", command, {self.load_cpu}, log)
        backend.wait_for(lambda: _answers(self.backend_port))
        return backend

    def start(self, peer, case):
        """Starts a proxy and waits until it passes a request on; returns the process and its port."""
        port = free_port()
        shards = case.shards
        sort = "-tcp" if case.mode == "tcp" else ""
        cpus = set(self.cpus_for(shards))
        log = self.folder / f"{peer.name}.log"
        if peer.kind == "haproxy":
            command = [peer.program, "-db", "-f", self.configuration(f"haproxy{sort}.cfg", port, shards)]
        elif peer.kind == "nginx":
            path = self.configuration("nginx.conf", port, shards)
            command = [peer.program, "-e", str(self.folder / "nginx-error.log"), "-c", path]
        elif peer.kind == FLOOR:
            how = "splice" if case.body_bytes else "copy"
            command = [peer.program, f"127.0.0.1:{port}", f"127.0.0.1:{self.backend_port}", how]
        else:
            command = [peer.program, "-c", self.configuration(f"mantrid{sort}.conf", port, shards)]
        proxy = Process(peer.name, command, cpus, log)
        try:
            if peer.kind == "mantrid":
                proxy.wait_for(lambda: "Ready" in proxy.text())
            proxy.wait_for(lambda: _answers(port))
        except RunError:
            proxy.stop()
            raise
        return proxy, port


def _answers(port):
    """True when a request for a host of the table gets the backend's answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as client:
            request = f"GET /small HTTP/1.1\r\nHost: {cases.host(0)}\r\nConnection: close\r\n\r\n"
            client.sendall(request.encode())
            return client.recv(4096).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
