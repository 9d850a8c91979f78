"""The honest clients of loadtest/soak: each checks status and body of every answer, byte for byte.

soak_clients.py PORT TCP_PORT RATE: runs until its standard input ends, then finishes what is under way and
prints one line of JSON: how many of each kind were checked, and the first failures in words.
"""

import asyncio
import json
import random
import sys
import time
import zlib

PATTERN = bytes(range(256)) * 4096  # as in soak_backend.py
ANSWER_SECONDS = 30.0  # far more than any answer takes: past it a request counts as forgotten
FAILURES_KEPT = 20

over = asyncio.Event()
checked, failures, times = {}, [], []


class Wrong(Exception):
    """An answer that is not the one expected."""


class Peer:
    """A connection that speaks just enough HTTP to be exact about it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    def ask(self, host, path, *fields, method="GET", body=b""):
        head = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]
        self.writer.write("\r\n".join(head).encode() + body)

    async def answer(self):
        """Status, body and trailer section of the next final answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(head.split(" ", 2)[1])
        fields = dict(
            (name.lower(), value.strip())
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:-2])
        )
        if status == 101:
            return status, b"", b""
        if fields.get("transfer-encoding") != "chunked":
            return status, await self.reader.readexactly(int(fields["content-length"])), b""
        body = bytearray()
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        trailers = b""
        while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
            trailers += line
        return status, bytes(body), trailers

    def close(self):
        self.writer.close()


def expect(found, wanted, what):
    if found != wanted:
        short = lambda it: repr(it)[:120]  # noqa: E731
        raise Wrong(f"{what}: {short(found)} in place of {short(wanted)}")


async def small(peer, turn):
    size = random.randint(0, 2000)
    peer.ask("body.example", f"/bytes/{size}")
    expect((await peer.answer())[:2], (200, PATTERN[:size]), "small")


async def download(peer, turn):
    peer.ask("body.example", "/bytes/1048576")
    status, body, _ = await peer.answer()
    expect((status, len(body), body == PATTERN), (200, len(PATTERN), True), "download")


async def upload(peer, turn):
    body = PATTERN[: random.choice((10, 5000, 70_000, 1 << 20))]
    if turn % 2:
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        peer.ask("body.example", "/sum", "Transfer-Encoding: chunked", method="POST", body=chunks)
    else:
        peer.ask("body.example", "/sum", f"Content-Length: {len(body)}", method="POST", body=body)
    await peer.writer.drain()
    wanted = f"{len(body)} {zlib.crc32(body)}".encode()
    expect((await peer.answer())[:2], (200, wanted), "upload")


async def chunked(peer, turn):
    size = random.randint(0, 200_000)
    peer.ask("body.example", f"/chunked/{size}")
    status, body, trailers = await peer.answer()
    expect((status, body == PATTERN[:size], trailers), (200, True, b"X-End: here\r\n"), "chunked")


async def pipelined(peer, turn):
    """Eight at once, to hosts of different rules; the answers in their order."""
    sizes = [random.randint(0, 3000) for _ in range(8)]
    for size in sizes:
        peer.ask(random.choice(("body.example", "queued.example", "alias.example")), f"/bytes/{size}")
    for size in sizes:
        expect((await peer.answer())[:2], (200, PATTERN[:size]), "pipelined")


async def queued(peer, turn):
    """More clients than its rule's max_connections lets through at a time."""
    peer.ask("queued.example", "/bytes/100")
    expect((await peer.answer())[:2], (200, PATTERN[:100]), "queued")


async def held(peer, turn):
    """The host is flipped to spin and back all the time: answered once, and sent on once."""
    mark = f"{random.getrandbits(60)}"
    peer.ask("spin.example", f"/once/{mark}")
    expect((await peer.answer())[:2], (200, f"{mark} 1".encode()), "held")


async def away(peer, turn):
    """The backend is restarted all the time; its rule says `hold`."""
    peer.ask("hold.example", f"/{turn}")
    expect((await peer.answer())[:2], (200, f"/{turn}\n".encode()), "away")


async def surplus(peer, turn):
    """The backend sends more than its answer, which must reach nobody: one host of two, one request or two at once."""
    kinds = [random.choice(("100", "16384", "40000", "1000000", "chunked", "204", "304", "honest")) for _ in range(turn % 2 + 1)]
    tokens = [f"{random.getrandbits(60)}" for _ in kinds]
    for kind, token in zip(kinds, tokens):
        peer.ask(random.choice(("surplus.example", "surplus-too.example")), f"/surplus/{kind}/{token}")
    for kind, token in zip(kinds, tokens):
        head = (await peer.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        found = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        expect(found.get("X-Token"), token, f"surplus, {kind}: whose answer")
        if kind == "chunked":
            await peer.reader.readuntil(b"0\r\n\r\n")
        elif kind not in ("204", "304"):
            await peer.reader.readexactly(int(found["Content-Length"]))


async def websocket(peer, turn):
    peer.ask("body.example", "/echo", "Connection: Upgrade", "Upgrade: websocket")
    expect((await peer.answer())[0], 101, "websocket")
    await echoed(peer, "websocket")


async def tunnel(peer, turn):
    await echoed(peer, "tunnel")


async def echoed(peer, what):
    """Some talk, shorter than an upgrade grants tunnels; then one end closes, and the other follows."""
    for _ in range(random.randint(1, 12)):
        text = PATTERN[: random.choice((1, 100, 1000, 60_000))]
        peer.writer.write(text)
        expect(await peer.reader.readexactly(len(text)) == text, True, what)
        await asyncio.sleep(random.random() / 5)
    peer.writer.write_eof()
    expect(await peer.reader.read(), b"", f"{what}, after its end")


# Kind, how many clients of it, seconds between requests of one, requests on one connection.
KINDS = ((small, 4, 0.1, 1000), (small, 2, 0.1, 1), (download, 2, 0.4, 10), (upload, 2, 0.2, 50), (chunked, 2, 0.2, 50),
         (pipelined, 2, 0.2, 50), (queued, 6, 0.05, 50), (held, 6, 0.1, 20), (away, 4, 0.1, 20), (websocket, 2, 0.2, 1),
         (tunnel, 2, 0.2, 1), (surplus, 8, 0.05, 20))


async def client(ports, kind, pause, many):
    turn, peer, left = 0, None, 0
    while not over.is_set():
        turn += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if not left:
                    peer, left = await Peer.open(ports[kind is tunnel]), many
                await kind(peer, turn)
            left -= 1
        except (OSError, Wrong, ValueError, KeyError, asyncio.IncompleteReadError, TimeoutError) as error:
            left = 0
            if len(failures) < FAILURES_KEPT:
                failures.append(f"{time.strftime('%H:%M:%S')} {kind.__name__}: {error!r}")
            checked["failed"] = checked.get("failed", 0) + 1
        checked[kind.__name__] = checked.get(kind.__name__, 0) + 1
        times.append(time.monotonic() - began)
        del times[:-100_000]
        if not left and peer:
            peer.close()
            peer = None
        try:
            await asyncio.wait_for(over.wait(), pause * random.uniform(0.5, 1.5))
        except TimeoutError:
            pass
    if peer:
        peer.close()


async def main():
    http_port, tcp_port, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    tasks = [
        asyncio.create_task(client((http_port, tcp_port), kind, pause / rate, many))
        for kind, count, pause, many in KINDS
        for _ in range(count)
    ]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    over.set()
    await asyncio.gather(*tasks)
    print(json.dumps({"checked": checked, "failures": failures, "longest_s": max(times, default=0)}))


asyncio.run(main())
