"""The proxies that are compared, and the backends behind all of them.

A peer is a name, a program and a template under loadtest/peers/; `@NAME@` in a template is filled in.
Every peer is started fresh for every measurement, with the same table, on the same CPUs.
"""

import json
import os
import re
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
# HAProxy with the same table in other forms: the leanest, and the one that everybody begins with.
TABLES = ("haproxy-set-dst", "haproxy-use-backend")
# Relays that parse nothing, with the example that each is: what the kernel alone takes.
FLOORS = {"floor": "floor", "ring-floor": "ring_floor"}
ALL_KINDS = (*KINDS, *TABLES, *FLOORS)
# The release of HAProxy that counts as an opponent, and its successors.
HAPROXY_COUNTS = (3, 4)


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
        if kind in FLOORS:
            program = str(_built("--example", FLOORS[kind]))
            how = "plain system calls" if kind == "floor" else "the shard's own kind of ring"
            peers.append(Peer(kind, kind, program, f"{how}, nothing parsed"))
        elif kind == "mantrid":
            for name, path in mantrids or [("mantrid", str(_built("--bin", "mantrid")))]:
                if not os.access(path, os.X_OK):
                    raise SystemExit(f"loadtest: {path} is no program (from --mantrid)")
                path = str(Path(path).resolve())
                peers.append(Peer(name, kind, path, _version(path, "--version")))
        else:
            program = program_path(kind.split("-")[0])
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


def caveat(peer):
    """What to know of a peer's version, or nothing."""
    found = re.search(r"(\d+)\.(\d+)", peer.version) if peer.kind == "haproxy" else None
    if found and tuple(map(int, found.groups())) < HAPROXY_COUNTS:
        return "older than 3.4, which is the opponent that counts: HAPROXY=/path names another"
    return ""


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


SIZES = {"1k": 1 << 10, "16k": 16 << 10, "64k": 64 << 10, "1m": 1 << 20, "100m": 100 << 20}


class Fixture:
    """The temporary folder of a run: table files, body files, configurations, logs."""

    def __init__(self, folder, cpus, load_cpu, descriptors):
        self.folder = Path(folder)
        self.cpus = cpus  # of the proxy: as many as shards are used of it
        self.load_cpu = load_cpu
        self.descriptors = descriptors
        self.backend_port, self.echo_port = free_port(), free_port()
        self.socket = self.folder / "backend.sock"
        self._backends = []
        self._examples = {}
        self.reset_tables()
        self._make_bodies()

    def reset_tables(self):
        """The table's files as every proxy finds them; changes may have added to them, or to our state."""
        names = [cases.host(number) for number in range(cases.HOSTS)]
        for state in self.folder.glob("state-*"):
            state.unlink()
        self._write("hosts.txt", "".join(f"{name}\n" for name in names))
        self._write("haproxy.map", "".join(f"{name} app\n" for name in names))
        self._write("haproxy-ip.map", "".join(f"{name} 127.0.0.1\n" for name in names))
        self._write("nginx.map", "".join(f"{name} app;\n" for name in names))

    def _make_bodies(self):
        for folder in ("static", "www"):
            (self.folder / folder).mkdir()
        for name, size in SIZES.items():
            self._write(f"www/{name}", "0123456789abcdef" * (size // 16))
        with open(self.folder / "www/512m", "wb") as hole:
            hole.truncate(512 << 20)  # nobody reads more of it than socket buffers hold

    def example(self, name):
        """A program of ours under loadtest/; built when it is wanted first."""
        if name not in self._examples:
            self._examples[name] = str(_built("--example", name))
        return self._examples[name]

    def backend_of(self, case):
        return self.backend_port if case.load == "wrk" else self.echo_port

    def target(self, case, socket_prefix):
        """The backend of a case, as a peer names it that puts this in front of a socket's path."""
        return f"{socket_prefix}{self.socket}" if case.socket else f"127.0.0.1:{self.backend_of(case)}"

    def state(self, case):
        """Mantrid's table for a case; written when it is wanted first."""
        sort = "unix" if case.socket else self.backend_of(case)
        path = self.folder / f"state-{case.hosts}-{sort}.json"
        if not path.exists():
            rule = json.dumps(["proxy", {"backends": [self.target(case, "unix:")]}, False])
            with open(path, "w") as state:
                state.write('{"stats": {}, "hosts": {\n')
                rules = (f"{json.dumps(cases.host(number))}: {rule}" for number in range(case.hosts))
                for number, line in enumerate(rules):
                    state.write(line if number == 0 else f",\n{line}")
                state.write("\n}}\n")
        return path

    def _write(self, name, text):
        with open(self.folder / name, "w") as file:
            file.write(text)

    def configuration(self, template, port, shards=1, backend=0, state="", target=""):
        """Fills a template in; returns the path of the result."""
        root = os.geteuid() == 0
        # Both sides of an exchange take a descriptor; some are for files, pipes and listeners.
        connections = max(min((self.descriptors - 400) // 3, 20_000), 100)
        values = {
            "DIR": str(self.folder),
            "PORT": str(port),
            "BACKEND_PORT": str(backend or self.backend_port),
            "BACKEND": target or f"127.0.0.1:{backend or self.backend_port}",
            "STATE": str(state),
            "USE_BACKENDS": self._use_backends if "use-backend" in template else "",
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

    @property
    def _use_backends(self):
        names = map(cases.host, range(cases.HOSTS))
        return "\n".join(f"    use_backend app if {{ hdr(host) {name} }}" for name in names)

    def cpus_for(self, shards):
        """One shard: its own CPU. More: the next ones too, the load's among them if need be."""
        more = [cpu for cpu in sorted(os.sched_getaffinity(0)) if cpu not in self.cpus]
        cpus = (self.cpus + more)[:shards]
        if len(cpus) < shards:
            raise SystemExit(f"loadtest: {shards} shards need {shards} CPUs")
        return cpus

    def load_cpus(self, case):
        """One for the load, unless two shards are compared with one and have it too: then any of theirs, with
        both, or the one shard would have its CPU to itself and the two would not."""
        shared = self.cpus_for(2) if case.name == "two-shards" else []
        return set(shared) if self.load_cpu in shared else {self.load_cpu}

    def start_backend(self):
        program = program_path("nginx")
        path = self.configuration("backend.conf", self.backend_port)
        command = [program, "-e", str(self.folder / "backend-error.log"), "-c", path]
        self._start_backend("the backend (nginx)", command, self.backend_port)
        return self._backends[0]

    def _start_backend(self, name, command, port):
        log = self.folder / f"backend-{port}.log"
        backend = Process(name, command, {self.load_cpu}, log)
        self._backends.append(backend)
        backend.wait_for(lambda: answers(port))

    def settle(self, case):
        """Before a case: its backend is there, and all backends run where the load may."""
        if self.backend_of(case) == self.echo_port and len(self._backends) == 1:
            command = [self.example("echo"), f"127.0.0.1:{self.echo_port}"]
            self._start_backend("the backend (echo)", command, self.echo_port)
        for backend in self._backends:
            if not backend.alive():
                raise RunError(f"{backend.name} ended:\n{backend.tail()}")
            for pid in backend.pids():
                os.sched_setaffinity(pid, self.load_cpus(case))

    def stop_backends(self):
        for backend in self._backends:
            backend.stop()

    def start(self, peer, case):
        """Starts a proxy and waits until it passes a request on; returns the process and its port."""
        port = free_port()
        return self.launch(peer, case, port, self.command(peer, case, port)), port

    def launch(self, peer, case, port, command):
        cpus = set(self.cpus_for(case.shards))
        proxy = Process(peer.name, command, cpus, self.folder / f"{peer.name}.log")
        try:
            if peer.kind == "mantrid":
                proxy.wait_for(lambda: "Ready" in proxy.text())
            proxy.wait_for(lambda: answers(port))
        except RunError:
            proxy.stop()
            raise
        return proxy

    def command(self, peer, case, port):
        sort = "-tcp" if case.mode == "tcp" else ""
        backend = self.backend_of(case)
        if peer.kind == "nginx":
            target = self.target(case, "unix:")
            path = self.configuration("nginx.conf", port, case.shards, backend, target=target)
            return [peer.program, "-e", str(self.folder / "nginx-error.log"), "-c", path]
        if peer.kind in FLOORS:
            how = "splice" if case.body_bytes else "copy"
            return [peer.program, f"127.0.0.1:{port}", f"127.0.0.1:{backend}", how]
        if peer.kind == "mantrid":
            path = self.configuration(f"mantrid{sort}.conf", port, case.shards, backend, self.state(case))
            return [peer.program, "-c", path]
        files = ["haproxy-tcp.cfg"] if sort else ["haproxy-defaults.cfg", f"{peer.kind}.cfg"]
        command = [peer.program, "-db"]
        for name in files:
            target = self.target(case, "unix@")
            command += ["-f", self.configuration(name, port, case.shards, backend, target=target)]
        return command


def answers(port, host=cases.host(0)):
    """True when a request for a host of the table gets the backend's answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as client:
            request = f"GET /small HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            client.sendall(request.encode())
            return client.recv(4096).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
