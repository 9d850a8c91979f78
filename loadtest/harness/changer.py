"""Changes of the table all the time, and what was acknowledged: in the end the two must be equal.

One change at a time, so that it is always known what the table should be. An answer that is missing or 503
is asked for again, as docs/api.md says; that may happen while a daemon hands over, and is counted.
"""

import http.client
import json
import random
import threading
import time
import urllib.parse

from harness.process import RunError
from harness.cases import host as name

PAUSE = 0.04  # seconds between changes
WHOLE_TABLE_EVERY = 15.0
SPIN_SECONDS = 0.4
AGAIN_SECONDS = 30.0


class Changer:
    """A thread that changes until it is stopped. `table` is what was acknowledged."""

    def __init__(self, subject, table, hosts, right):
        self.subject, self.table, self.hosts, self.right = subject, table, hosts, right
        self.changes = self.flips = self.again = 0
        self.failures = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        whole = time.monotonic() + WHOLE_TABLE_EVERY
        kinds = (self.replace, self.replace, self.come_and_go, self.many, self.seen_at_once, self.flip)
        try:
            while not self.over.wait(PAUSE):
                if whole < time.monotonic():
                    whole += WHOLE_TABLE_EVERY
                    self.make("PUT", "/hostname/", self.table)
                random.choice(kinds)()
        except (RunError, OSError, http.client.HTTPException) as error:
            self.failures.append(f"a change: {error}")

    def stop(self):
        self.over.set()
        self.thread.join()

    def make(self, method, path, body=None):
        """One change, acknowledged."""
        text = None if body is None else json.dumps(body)
        until = time.monotonic() + AGAIN_SECONDS
        while True:
            try:
                status, answer = self.subject.call(method, path, text)
            except (OSError, http.client.HTTPException) as error:
                status, answer = 0, repr(error)
            if status == 200:
                self.changes += 1
                return
            if status not in (0, 503) or until < time.monotonic():
                raise RunError(f"{method} {path}: {status} {answer[:200]}")
            self.again += 1
            time.sleep(0.02)

    def put(self, host, rule):
        self.make("PUT", f"/hostname/{urllib.parse.quote(host, safe='')}/", rule)
        self.table[host] = rule

    def delete(self, host):
        self.make("DELETE", f"/hostname/{urllib.parse.quote(host, safe='')}/")
        self.table.pop(host, None)

    def variant(self):
        """A rule that leads to the same backend in other words."""
        arguments = {"backends": [self.right]}
        arguments |= random.choice(({}, {"attempts": 2}, {"algorithm": "round_robin"}, {"hold": 5}, {"idle": 600}))
        return ["proxy", arguments, random.random() < 0.5]

    def replace(self):
        """A host under load gets another rule that answers the same."""
        self.put(name(random.randrange(self.hosts)), self.variant())

    def come_and_go(self):
        host = f"{random.choice(('', 'http://', 'tcp://'))}e{random.randrange(500)}.example"
        if host in self.table:
            self.delete(host)
        else:
            self.put(host, random.choice((self.variant(), ["empty", {"code": 204}, True],
                                          ["alias", {"hostname": "body.example"}, False])))

    def many(self):
        """A PATCH of fifty, some of them gone by it."""
        changes = {name(random.randrange(self.hosts)): self.variant() for _ in range(40)}
        for _ in range(10):
            host = f"p{random.randrange(200)}.example"
            changes[host] = None if host in self.table else ["empty", {"code": 404}, False]
        self.make("PATCH", "/hostname/", changes)
        for host, rule in changes.items():
            if rule is None:
                self.table.pop(host, None)
            else:
                self.table[host] = rule

    def seen_at_once(self):
        """Every request that starts after the answer is routed by it."""
        code = random.choice((404, 410, 418, 451))
        self.put("now.example", ["empty", {"code": code}, False])
        connection = http.client.HTTPConnection("127.0.0.1", self.subject.port, timeout=30)
        try:
            connection.request("GET", "/", headers={"Host": "now.example"})
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != code:
            raise RunError(f"now.example answers {status} after {code} was acknowledged")

    def flip(self):
        """Holds spin.example until somebody waits, and a moment more; then lets them go."""
        rule = self.table["spin.example"]
        self.put("spin.example", ["spin", {"timeout": 60}, False])
        self.over.wait(random.random() * SPIN_SECONDS)
        self.put("spin.example", rule)
        self.flips += 1
