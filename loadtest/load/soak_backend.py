"""The backends of loadtest/soak: one that is always right, and some that are wrong in every way.

Prints one line of JSON with its ports, then serves until its standard input ends. What a request asks for
is in its path, so that whoever asked can check every byte:

    /bytes/N    N bytes with a length          /chunked/N   N bytes in chunks, with a trailer
    /once/ID    the ID, and how often it came  /sum         (POST) length and CRC of the body
    /echo       (Upgrade) 101, then an echo

The backend `surplus` lies: behind its answer, whose X-Token is the one in the path, it sends more, which looks like an
answer for somebody else (/surplus/KIND/TOKEN).
"""

import asyncio
import json
import random
import sys
import zlib

PATTERN = bytes(range(256)) * 4096  # 1 MiB
SEEN_MAX = 200_000
seen = {}


async def main():
    ports = {}
    kinds = {"right": right, "queued": right, "echo": echo, "reset": reset, "early": early, "stall": stall,
             "half": half, "garbage": garbage, "cut_chunks": cut_chunks, "surplus": surplus}
    servers = []
    for name, serve in kinds.items():
        server = await asyncio.start_server(guarded(serve), "127.0.0.1", 0, backlog=1024)
        servers.append(server)
        ports[name] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def guarded(serve):
    """A peer that leaves is no news here; every connection ends closed."""

    async def connection(reader, writer):
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    return connection


async def read_request(reader):
    """Method, path, lower-case fields and the body's CRC and length; None when the peer has ended."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    fields = dict((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2]))
    crc = length = 0
    if fields.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            piece = (await reader.readexactly(size + 2))[:-2]
            crc, length = zlib.crc32(piece, crc), length + size
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    else:
        left = int(fields.get("content-length", 0))
        while left:
            piece = await reader.read(min(left, 1 << 18))
            if not piece:
                return None
            crc, length, left = zlib.crc32(piece, crc), length + len(piece), left - len(piece)
    return method, path, fields, crc, length


async def right(reader, writer):
    while request := await read_request(reader):
        method, path, fields, crc, length = request
        what, _, argument = path[1:].partition("/")
        if what == "echo":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            return await echo(reader, writer)
        if what == "chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n")
            at, end = 0, int(argument)
            while at < end:
                piece = PATTERN[at : min(at + random.randint(1, 9000), end)]
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                at += len(piece)
            writer.write(b"0\r\nX-End: here\r\n\r\n")
        else:
            body = PATTERN[: int(argument)] if what == "bytes" else None
            if what == "once":
                while len(seen) > SEEN_MAX:
                    seen.pop(next(iter(seen)))
                seen[argument] = seen.get(argument, 0) + 1
                body = f"{argument} {seen[argument]}".encode()
            elif what == "sum":
                body = f"{length} {crc}".encode()
            elif body is None:
                body = b"?"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
        await writer.drain()


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def reset(reader, writer):
    await read_request(reader)
    writer.transport.abort()  # with what is unread: a reset


async def early(reader, writer):
    await reader.read(random.choice((1, 64)))


async def stall(reader, writer):
    await read_request(reader)
    await asyncio.wait_for(reader.read(), 30)


async def half(reader, writer):
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + PATTERN[: random.randint(0, 999_999)])
    await writer.drain()


async def cut_chunks(reader, writer):
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + random.choice((b"", b"zz\r\n")))
    await writer.drain()


async def garbage(reader, writer):
    await read_request(reader)
    writer.write(random.choice((random.randbytes(200), b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
                                b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n")))
    await writer.drain()


async def surplus(reader, writer):
    while request := await read_request(reader):
        _, kind, token = request[1][1:].split("/")
        head = f"X-Token: {token}\r\n"
        if kind == "honest":
            answer = b"HTTP/1.1 200 OK\r\n%sContent-Length: 5\r\n\r\nright" % head.encode()
        elif kind == "chunked":
            answer = b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n" % head.encode()
        elif kind in ("204", "304"):
            answer = f"HTTP/1.1 {kind} Nothing\r\n{head}\r\n".encode()
        else:
            front = f"HTTP/1.1 200 OK\r\n{head}Content-Length: ".encode()
            # 16384: with its head as much as a buffer of the daemon holds
            length = 16_384 - len(front) - 9 if kind == "16384" else int(kind)
            answer = front + b"%d\r\n\r\n" % length + PATTERN[:length]
        more = b"HTTP/1.1 200 OK\r\nX-Token: of-another\r\nContent-Length: 5\r\n\r\nwrong"
        writer.write(answer if kind == "honest" else answer + random.choice((more, more * 20_000, more[:1])))
        await writer.drain()


asyncio.run(main())
