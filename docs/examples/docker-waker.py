#!/usr/bin/env python3
"""Starts a Docker container for the first visitor of a host, and stops it when the host is idle.

    docker-waker.py [--listen ADDRESS:PORT] [--docker SOCKET] SITES.json

Mantrid sends a POST to the address in a rule's `wake`: `held` when requests begin to wait for a host,
`idle` when the host had no request for as long as its rule says. SITES.json names the container of each
host, and the address at which it serves:

    {"shop.example": {"container": "shop", "address": "shop:8000"}}

The waker speaks to Docker on its socket, and to Mantrid at MANTRID_URL (http://127.0.0.1:8042), with
MANTRID_TOKEN where Mantrid wants one. It needs Python alone. It answers 202 at once and works in the
background, because Mantrid repeats a POST that is not answered in five seconds. A container with a
health check counts as ready when Docker calls it healthy, any other when its address accepts connections.
"""

import argparse
import http.client
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READY_WITHIN = 60
MANTRID = os.environ.get("MANTRID_URL", "http://127.0.0.1:8042").rstrip("/")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:9000", metavar="ADDRESS:PORT")
    parser.add_argument("--docker", default="/var/run/docker.sock", metavar="SOCKET")
    parser.add_argument("sites", metavar="SITES.json")
    options = parser.parse_args()
    with open(options.sites) as file:
        sites = {host: Site(host, options, **site) for host, site in json.load(file).items()}
    address, port = options.listen.rsplit(":", 1)
    server = ThreadingHTTPServer((address, int(port)), WakeHandler)
    server.sites = sites
    say(f"listening on http://{options.listen}/")
    server.serve_forever()


class WakeHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        site = self.server.sites.get(event["host"])
        self.send_response(202 if site else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if site:
            work = site.wake if event["event"] == "held" else site.sleep
            threading.Thread(target=site.safely, args=(work,)).start()

    def log_message(self, *_):
        pass


class Site:
    def __init__(self, host, options, container, address):
        self.host, self.container, self.docker = host, container, options.docker
        self.address, _, port = address.rpartition(":")
        self.port, self.url = int(port), f"http://{options.listen}/"
        self.busy = threading.Lock()

    def safely(self, work):
        try:
            with self.busy:
                work()
        except (OSError, ValueError, http.client.HTTPException) as error:
            say(f"{self.host}: {error}")

    def wake(self):
        say(f"{self.host}: starting {self.container}")
        self.ask_docker("POST", "start")
        until = time.monotonic() + READY_WITHIN
        while not self.is_ready():
            if until < time.monotonic():
                return say(f"{self.host}: {self.container} is not ready after {READY_WITHIN} s")
            time.sleep(0.1)
        # the rule that stood before: its requests go on
        self.change(lambda rule: rule[1].get("then", rule) if rule[0] == "spin" else rule)

    def sleep(self):
        say(f"{self.host}: idle, stopping {self.container}")
        # Hold the host before the container stops: a visitor who comes in between waits, and wakes it.
        self.change(lambda rule: ["spin", {"then": rule, "wake": self.url}, rule[2]] if rule[0] != "spin" else rule)
        self.ask_docker("POST", "stop")

    def is_ready(self):
        health = self.ask_docker("GET", "json")["State"].get("Health")
        if health:
            return health["Status"] == "healthy"
        try:
            socket.create_connection((self.address, self.port), 1).close()
            return True
        except OSError:
            return False

    def ask_docker(self, method, what):
        connection = Docker(self.docker)
        connection.request(method, f"/containers/{urllib.parse.quote(self.container)}/{what}")
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        # 304: it is started, or stopped, already
        if answer.status >= 400:
            raise OSError(f"docker {what} {self.container}: {answer.status} {text.decode().strip()}")
        return json.loads(text) if text else None

    def change(self, new):
        """Replaces the rule of the host; again where another program changed the table meanwhile."""
        while True:
            rule, tag = ask_mantrid("GET", self.host)
            if new(rule) == rule:
                return
            try:
                return ask_mantrid("PUT", self.host, new(rule), tag)
            except urllib.error.HTTPError as error:
                if error.code != 412:
                    raise OSError(f"mantrid: {error.read().decode().strip()}") from error


class Docker(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("docker", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask_mantrid(method, host, rule=None, tag=None):
    fields = {"Content-Type": "application/json"}
    if tag:
        fields["If-Match"] = tag
    if os.environ.get("MANTRID_TOKEN"):
        fields["Authorization"] = f"Bearer {os.environ['MANTRID_TOKEN']}"
    data = None if rule is None else json.dumps(rule).encode()
    path = f"{MANTRID}/hostname/{urllib.parse.quote(host, safe='')}/"
    request = urllib.request.Request(path, data, fields, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer), answer.headers["ETag"]


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
