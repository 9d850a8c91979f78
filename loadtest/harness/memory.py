"""Memory: what idle connections cost, and clients that stop reading.

Resident memory of the proxy after minus before, both once it has stopped changing. "Before" is after a
wave of connections that came and went, so that pools and tables exist already. Kernel memory (socket
buffers) is not in it, except that pipes in use are shown beside it: a splicing proxy keeps bytes there.
"""

import select
import socket
import time

from harness import cases
from harness.process import RunError

WARM_UP_CONNECTIONS = 64
SETTLED_FOR_S = 1.0
SETTLE_MAX_S = 20.0


def measure(fixture, peer, case, connections):
    """Starts the proxy, holds `connections` in the state of the case; returns one record."""
    proxy, port = fixture.start(peer, case)
    clients = []
    errors = {}
    try:
        for _ in range(WARM_UP_CONNECTIONS):
            clients.append(_connect(port))
        for client in clients:
            _exchange(client)
        for client in clients:
            client.close()
        clients.clear()
        before = _settled(proxy)
        for _ in range(connections):
            client = _connect(port)
            clients.append(client)
            if case.kind == "idle":
                _exchange(client)
            else:
                client.sendall(_request(case.path))
                client.recv(1024)  # the head has come; nothing is read from here on
        after = _settled(proxy)
        pipe_bytes = proxy.pipe_bytes()
        gone = sum(1 for client in clients if _is_closed(client, case))
        if gone:
            errors["closed early"] = gone
        if not proxy.alive():
            errors["proxy ended"] = 1
    finally:
        for client in clients:
            client.close()
        proxy.stop()
    growth = after - before
    return {
        "growth_bytes": growth,
        "each_bytes": growth / connections,
        "pipe_bytes": pipe_bytes,
        "resident_bytes": after,
        "errors": errors,
    }


def _connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10.0)


def _request(path):
    return f"GET {path} HTTP/1.1\r\nHost: {cases.host(1)}\r\n\r\n".encode()


def _exchange(client):
    """One small request and its whole answer."""
    client.sendall(_request("/small"))
    answer = b""
    while not answer.endswith(b"Hello, world!\n"):
        piece = client.recv(4096)
        if not piece:
            raise RunError("the proxy closed a connection that it should keep alive")
        answer += piece


def _is_closed(client, case):
    """An idle connection must be silent; a stalled one has bytes waiting, and no end yet."""
    poll = select.poll()  # select() ends at descriptor 1023
    poll.register(client, select.POLLIN)
    if not poll.poll(0):
        return False
    client.setblocking(False)
    try:
        return case.kind == "idle" or client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _settled(proxy):
    """Resident bytes once they have not changed for a while."""
    last, since = proxy.resident_bytes(), time.monotonic()
    deadline = since + SETTLE_MAX_S
    while time.monotonic() - since < SETTLED_FOR_S and time.monotonic() < deadline:
        time.sleep(0.1)
        now = proxy.resident_bytes()
        if abs(now - last) > 16 * 1024:
            last, since = now, time.monotonic()
    return last
