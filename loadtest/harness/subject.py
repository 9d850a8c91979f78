"""The daemon of a soak: signalled, upgraded to a process that is not our child, sampled, stopped.

An upgrade starts the new daemon from the old one, so it would become a child of init, and nobody would see
how it ended. This process adopts it (PR_SET_CHILD_SUBREAPER), and every daemon's exit code is looked at.
"""

import ctypes
import http.client
import json
import os
import re
import signal
import time
from pathlib import Path

from harness.peers import free_port
from harness.process import Process, RunError

PR_SET_CHILD_SUBREAPER = 36
UPGRADE_SECONDS = 60.0

# Time-outs are short, so that what they lead to happens often.
CONFIGURATION = """\
bind = 127.0.0.1:{port}
bind_tcp = 127.0.0.1:{tcp_port} echo.example
bind_management = 127.0.0.1:{management}
state_file = {folder}/state/state.json
static_dir = {folder}/static/
access_log = {folder}/log/access.log
shards = 2
cpus = {cpus}
timeout_http_request = 3s
timeout_http_keep_alive = 5s
timeout_client = 5s
timeout_connect = 3s
timeout_server = 3s
timeout_drain = 20s
uid = {uid}
gid = {gid}
"""
SAMPLED = ("connections_open", "requests_held", "requests_queued", "pipes", "idle_backend_connections")
# Faults of ours: none may ever count anything.
ALWAYS_ZERO = ("panics_total", "requests_uncounted_total", "news_dropped_total")
LINE = re.compile(r"mantrid_(\w+?)(?:\{[^}]*\})? ([0-9.e+-]+)$")


class Subject:
    """A running daemon. Only one thread may signal it: `pid` is that of the one that serves now."""

    def __init__(self, program, folder, rules):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.folder = Path(folder)
        self.port, self.tcp_port, self.management = free_port(), free_port(), free_port()
        for name in ("state", "static", "log"):
            (self.folder / name).mkdir()
        (self.folder / "state/state.json").write_text(json.dumps({"hosts": rules, "stats": {}}))
        cpus = sorted(os.sched_getaffinity(0))[:2]
        text = CONFIGURATION.format(
            port=self.port, tcp_port=self.tcp_port, management=self.management, folder=folder,
            cpus=",".join(map(str, cpus * 2 if len(cpus) == 1 else cpus)), uid=os.getuid(), gid=os.getgid(),
        )
        (self.folder / "mantrid.conf").write_text(text)
        self.command = [program, "-c", f"{folder}/mantrid.conf"]
        self.process = Process("mantrid", self.command, set(cpus), self.folder / "mantrid.log")
        self.process.wait_for(lambda: "Ready" in self.process.text())
        self.pid = self.process.popen.pid
        self.since = time.monotonic()  # of this process

    def call(self, method, path, body=None):
        """Status and text of one management request, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.management, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self):
        """Each metric, summed over shards and whatever else it has labels for."""
        status, text = self.call("GET", "/metrics")
        if status != 200:
            raise RunError(f"/metrics: {status} {text[:200]}")
        sums = {}
        for line in text.splitlines():
            if found := LINE.match(line):
                sums[found[1]] = sums.get(found[1], 0.0) + float(found[2])
        return sums

    def sample(self):
        """What one process holds now; None while two of them serve, or it changes meanwhile."""
        pid, since = self.pid, self.since
        if self.process.pids() != [pid]:
            return None
        metrics = self.metrics()
        memory = self.process.resident_bytes()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        if pid != self.pid or self.process.pids() != [pid]:
            return None
        sample = {name: int(metrics[name]) for name in SAMPLED}
        broken = [f"{name} is {metrics[name]:.0f}" for name in ALWAYS_ZERO if metrics[name]]
        return sample | {
            "age": time.monotonic() - since, "pid": pid, "memory": memory, "descriptors": descriptors,
            "requests": metrics["requests_completed_total"], "log_dropped": metrics["access_log_dropped_total"],
            "broken": broken,
        }

    def upgrade(self):
        """SIGUSR2, until the old daemon has ended and the new one serves alone; the seconds it took."""
        began, old = time.monotonic(), self.pid
        os.kill(old, signal.SIGUSR2)
        while (pids := self.process.pids()) and (len(pids) != 1 or pids == [old]):
            if time.monotonic() - began > UPGRADE_SECONDS:
                raise RunError(f"an upgrade is not over after {UPGRADE_SECONDS:.0f} s:\n{self.process.tail()}")
            time.sleep(0.05)
        self._ended(old)
        if not pids:
            raise RunError(f"no daemon is left after an upgrade:\n{self.process.tail()}")
        self.pid, self.since = pids[0], time.monotonic()
        return self.since - began

    def signal(self, number):
        os.kill(self.pid, number)

    def stop(self):
        """SIGTERM, and a clean end."""
        os.kill(self.pid, signal.SIGTERM)
        began = time.monotonic()
        while self.process.pids():
            if time.monotonic() - began > UPGRADE_SECONDS:
                raise RunError(f"it does not stop:\n{self.process.tail()}")
            time.sleep(0.05)
        self._ended(self.pid)

    def _ended(self, pid):
        """Reaps a daemon, ours or adopted; anything but exit code 0 is an error."""
        if pid == self.process.popen.pid:
            code = self.process.popen.wait(10)
        else:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != 0:
            raise RunError(f"the daemon {pid} ended with {code}:\n{self.process.tail()}")
