#!/usr/bin/env python3
"""Starts a systemd unit for the first visitor of a host, and stops it when the host is idle.

    waker.py [--listen ADDRESS:PORT] SITES.json

Mantrid sends a POST to the address in a rule's `wake`: `held` when requests begin to wait for a host,
`idle` when the host had no request for as long as its rule says. SITES.json names the unit of each host:

    {"shop.example": {"unit": "shop.service", "address": "127.0.0.1:8000"}}

The waker uses `systemctl` and `mantrid-client`, so it must run as a user who may start and stop these
units, and who reaches the management API. It answers 202 at once and works in the background, because
Mantrid repeats a POST that is not answered in five seconds.
"""

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READY_WITHIN = 60


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:9000", metavar="ADDRESS:PORT")
    parser.add_argument("sites", metavar="SITES.json")
    options = parser.parse_args()
    with open(options.sites) as file:
        sites = {host: Site(host, **site) for host, site in json.load(file).items()}
    address, port = options.listen.rsplit(":", 1)
    server = ThreadingHTTPServer((address, int(port)), WakeHandler)
    server.sites = sites
    server.url = f"http://{options.listen}/"
    say(f"listening on {server.url}")
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
            threading.Thread(target=work, args=(self.server.url,)).start()

    def log_message(self, *_):
        pass


class Site:
    def __init__(self, host, unit, address):
        self.host, self.unit = host, unit
        self.address, _, port = address.rpartition(":")
        self.port = int(port)
        self.busy = threading.Lock()

    def wake(self, _url):
        with self.busy:
            say(f"{self.host}: starting {self.unit}")
            if not run("systemctl", "start", self.unit):
                return
            until = time.monotonic() + READY_WITHIN
            while not self.answers():
                if until < time.monotonic():
                    return say(f"{self.host}: {self.unit} does not listen after {READY_WITHIN} s")
                time.sleep(0.05)
            run("mantrid-client", "flip", self.host)

    def sleep(self, url):
        with self.busy:
            say(f"{self.host}: idle, stopping {self.unit}")
            # Hold the host before the unit stops: a visitor who comes in between waits, and wakes it again.
            if run("mantrid-client", "spin", self.host, "--wake", url):
                run("systemctl", "stop", self.unit)

    def answers(self):
        try:
            socket.create_connection((self.address, self.port), 1).close()
            return True
        except OSError:
            return False


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        say(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.returncode == 0


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
