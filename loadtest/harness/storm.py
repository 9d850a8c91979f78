"""Changes to a running proxy's table, each way as its own documentation says, until they are told to stop.

A change counts as done when the proxy says so, or, for a reload, when a host that was not there before is
answered. All of them are made by the load's CPU: what they cost there is in `generator late`.
"""

import json
import os
import signal
import socket
import statistics
import threading
import time
from dataclasses import dataclass

from harness import cases
from harness.peers import answers
from harness.process import RunError

IN_FORCE_S = 20  # a reload that takes longer has failed


@dataclass(frozen=True)
class Way:
    """`kind` of peer; `change` is a class below; `is_paced`: at the rate of single changes."""

    kind: str
    text: str
    change: type
    is_paced: bool = False


class Storm:
    """Threads that make changes, one after the other each; `pause` seconds apart, all together."""

    def __init__(self, change, writers, pause, cpu):
        self.change, self.over = change, threading.Event()
        self.times, self.failures = [], []
        self.began = time.monotonic()
        self.threads = [
            threading.Thread(target=self._write, args=(turn, writers, pause, cpu)) for turn in range(writers)
        ]
        for thread in self.threads:
            thread.start()

    def _write(self, turn, writers, pause, cpu):
        os.sched_setaffinity(0, {cpu})  # of this thread
        due, number = self.began + pause * turn, turn
        connection = None
        while not self.over.wait(max(due - time.monotonic(), 0)):
            start = time.monotonic()
            due += pause * writers
            try:
                connection = connection or self.change.connect()
                self.change.make(connection, number)
            except (OSError, RunError) as error:
                self.failures.append(error)
                break
            self.times.append(time.monotonic() - start)
            number += writers
        if connection:
            connection.close()

    def stop(self):
        """What was done; a change that failed is an error."""
        wall = time.monotonic() - self.began
        done = len(self.times)
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.failures or not done:
            raise RunError(f"a change failed: {(self.failures or ['none was made in time'])[0]}")
        cuts = statistics.quantiles(self.times, n=100) if len(self.times) > 1 else self.times * 99
        return {"changes_per_s": done / wall, "change_ms": cuts[49] * 1000, "change_p99_ms": cuts[98] * 1000}


class Change:
    """What a way needs to know: the fixture, the proxy's process and its port."""

    def __init__(self, fixture, proxy, port):
        self.fixture, self.proxy, self.port = fixture, proxy, port

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self.fixture.folder / self.socket_name))
        return client


class MantridRule(Change):
    """PUT of one rule; 200 means that it is on disk and that every later request is routed by it."""

    socket_name = "management.sock"

    def make(self, connection, number):
        host = cases.host(number % cases.HOSTS)
        self.put(connection, f"/hostname/{host}/", json.dumps(self.rule(number)))

    def rule(self, number):
        """Never the one that is there: each pass over the table writes the other of two."""
        backends = [["127.0.0.1", self.fixture.backend_port]]
        return ["proxy", {"backends": backends, "attempts": 2 + number // cases.HOSTS % 2}, False]

    def put(self, connection, path, body):
        head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = b""
        while not answer.endswith(b"}"):  # every answer to a change is a small object
            piece = connection.recv(65536)
            if not piece:
                raise RunError("the management connection was closed")
            answer += piece
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RunError(f"a change was refused: {answer.decode(errors='replace')}")


class MantridTable(MantridRule):
    """PUT of the whole table."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.bodies = [
            json.dumps({cases.host(n): self.rule(turn * cases.HOSTS) for n in range(cases.HOSTS)})
            for turn in range(2)
        ]

    def make(self, connection, number):
        self.put(connection, "/hostname/", self.bodies[number % 2])


class HaproxyRuntime(Change):
    """`set map` through the runtime API, over one connection that stays open."""

    socket_name = "haproxy.sock"

    def connect(self):
        connection = super().connect()
        self._command(connection, "prompt")
        return connection

    def make(self, connection, number):
        host = cases.host(number % cases.HOSTS)
        backend = ("other", "app")[number // cases.HOSTS % 2]
        answer = self._command(connection, f"set map {self.fixture.folder}/haproxy.map {host} {backend}")
        if answer.strip():
            raise RunError(f"HAProxy says: {answer}")

    def _command(self, connection, text):
        connection.sendall(f"{text}\n".encode())
        answer = b""
        while not answer.endswith(b"> "):
            piece = connection.recv(65536)
            if not piece:
                raise RunError("HAProxy closed the connection of its runtime API")
            answer += piece
        return answer.removesuffix(b"> ").decode()


class Reload(Change):
    """A host more in the table's file, and a signal to the master."""

    def connect(self):
        return None

    def make(self, _connection, number):
        host = f"new-{self.proxy.popen.pid}-{time.monotonic_ns()}.example"
        with open(self.fixture.folder / self.file, "a") as table:
            table.write(f"{host} {self.value}\n")
        os.kill(self.proxy.popen.pid, self.number)
        deadline = time.monotonic() + IN_FORCE_S
        while not answers(self.port, host):
            if time.monotonic() > deadline or not self.proxy.alive():
                raise RunError(f"a reload is not in force after {IN_FORCE_S} s:\n{self.proxy.tail()}")
            time.sleep(0.01)


class HaproxyReload(Reload):
    file, value, number = "haproxy.map", "app", signal.SIGUSR2


class NginxReload(Reload):
    file, value, number = "nginx.map", "app;", signal.SIGHUP


WAYS = {
    "mantrid-rules": Way("mantrid", "single rules by PUT", MantridRule, is_paced=True),
    "mantrid-table": Way("mantrid", "all 10,000 rules by PUT, again and again", MantridTable),
    "haproxy-runtime": Way("haproxy", "single hosts by `set map`", HaproxyRuntime, is_paced=True),
    "haproxy-reload": Way("haproxy", "master-worker, SIGUSR2", HaproxyReload),
    "nginx-reload": Way("nginx", "SIGHUP", NginxReload),
}
