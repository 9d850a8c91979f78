"""The table of cases: what is asked for, over how many connections, and why the case is there.

One entry here gives the option `--cases`, the row in the report and the line in `--list`.
"""

from dataclasses import dataclass
from fnmatch import fnmatch

# The table of nearly every case, all names to one backend: what differs is the load.
HOSTS = 10_000

MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One kind of load. `connections` are the defaults; --connections overrides them."""

    name: str
    text: str
    path: str = "/small"
    connections: tuple = (64,)
    body_bytes: int = 0  # 0: cost is per request; else per MiB of body
    close: bool = False  # the client asks for a new connection each time
    all_hosts: bool = False  # random names over the whole table instead of one
    shards: int = 1
    seconds: int = 0  # 0: what --seconds says
    pipeline: int = 1  # requests sent in one go
    upload_bytes: int = 0  # a POST with so long a body
    mode: str = "http"  # or "tcp": nobody parses
    kind: str = "load"  # or "paced": open loop; "idle", "stalled": memory
    peak_share: float = 0.7  # of the rate that HAProxy manages; for "paced"
    load: str = "wrk"  # or what talk.rs does: "websocket", "upload"; its backend is echo.rs
    hosts: int = HOSTS  # names in the table
    socket: bool = False  # the backend listens on a Unix socket
    only: tuple = ()  # kinds of peers; empty: all
    # Ours takes part a second time, in the same rounds, with these fields of the case changed: a name for
    # that and the fields.
    beside: tuple = ()
    default: bool = True  # part of a run without --cases

    @property
    def unit(self):
        return "MiB" if self.body_bytes else "request"


CASES = [
    Case("small", "tiny answer, connections kept alive", connections=(1, 8, 64, 512)),
    Case("small-4000", "the same over 4,000 connections", connections=(4000,)),
    Case(
        "small-unix",
        "tiny answer, everybody's backend on a Unix socket; beside it, in the same rounds, ours over TCP",
        connections=(64, 512, 4000),
        socket=True,
        only=("mantrid", "haproxy", "nginx"),
        beside=("tcp", {"socket": False}),
    ),
    Case(
        "latency",
        "tiny answers at 70 % of HAProxy's peak rate, timed from when each request was due",
        kind="paced",
    ),
    Case("latency-half", "the same at 50 % of it", kind="paced", peak_share=0.5),
    Case("pipelined", "tiny answers, 16 requests in one go", pipeline=16),
    Case("chunked", "16 KiB in chunks", path="/chunked"),
    Case("upload-1k", "a POST of 1 KiB", path="/upload", upload_bytes=1 << 10),
    Case("upload-64k", "a POST of 64 KiB", path="/upload", upload_bytes=64 << 10),
    Case("upload-1m", "a POST of 1 MiB", path="/upload", upload_bytes=MIB, connections=(16,)),
    Case(
        "upload-100m",
        "a POST of 100 MiB",
        path="/upload",
        connections=(4, 64),
        body_bytes=100 * MIB,
        load="upload",
    ),
    Case("websocket", "small messages, echoed, over 64 WebSockets", path="/echo", load="websocket"),
    Case("hosts", "tiny answer, a random name of the 10,000 each time", all_hosts=True),
    Case(
        "hosts-million",
        "the same with 1,000,000 hosts; beside it, in the same rounds, 10,000",
        all_hosts=True,
        hosts=1_000_000,
        only=("mantrid",),
        beside=("10k", {"hosts": HOSTS}),
    ),
    Case("close", "tiny answer, a new client connection each time", close=True),
    Case("body-1k", "1 KiB file", path="/1k"),
    Case("body-64k", "64 KiB file", path="/64k", body_bytes=64 << 10),
    Case("body-1m", "1 MiB file", path="/1m", connections=(16,), body_bytes=MIB),
    Case(
        "body-100m",
        "100 MiB file",
        path="/100m",
        connections=(8,),
        body_bytes=100 * MIB,
    ),
    Case(
        "tcp-ping",
        "raw TCP: small messages back and forth over 64 connections",
        mode="tcp",
    ),
    Case(
        "tcp-100m",
        "raw TCP: 100 MiB at a time, over one connection and over eight",
        path="/100m",
        connections=(1, 8),
        body_bytes=100 * MIB,
        mode="tcp",
    ),
    Case(
        "soak",
        "two shards, random names, 30 s: not one error, memory after 5 s and at the end",
        connections=(512,),
        all_hosts=True,
        shards=2,
        seconds=30,
    ),
    Case(
        "two-shards",
        "small with two shards on two CPUs; beside it one; the load may use both CPUs with either",
        connections=(64, 512),
        shards=2,
        beside=("1-shard", {"shards": 1}),
    ),
    Case(
        "idle",
        "memory per idle keep-alive connection",
        connections=(5000,),
        kind="idle",
    ),
    Case(
        "stalled",
        "memory for clients that stop reading a 512 MiB answer",
        path="/512m",
        connections=(40,),
        kind="stalled",
    ),
]


def host(number):
    """The name of a host in everybody's table."""
    return f"h{number:07d}.example"


def select(patterns):
    """The cases that the patterns (`*` allowed) name, in the table's order, or why there are none."""
    if not patterns:
        return [case for case in CASES if case.default]
    if patterns == ["all"]:
        return list(CASES)
    for pattern in patterns:
        if not any(fnmatch(case.name, pattern) for case in CASES):
            known = ", ".join(case.name for case in CASES)
            raise SystemExit(f"loadtest: no case is called {pattern!r}; there are: goals, all, {known}")
    return [case for case in CASES if any(fnmatch(case.name, pattern) for pattern in patterns)]
