"""The clients of loadtest/soak that behave badly, and those of hosts whose backends do.

soak_hostile.py PORT TCP_PORT: sixteen at a time, each picked at random and bounded in time, until its
standard input ends; then one line of JSON: how many of each, and answers that nobody may get.
"""

import asyncio
import json
import random
import socket
import struct
import sys

CLIENTS = 16
SECONDS = 8.0  # of one script at most
FAULTY = ("reset", "early", "stall", "half", "garbage", "cut_chunks", "gone", "limited")
# What a host with a faulty backend may answer: what it began, or a refusal of ours.
FAULTY_STATUS = {b"200", b"429", b"502", b"503", b"504"}

over = asyncio.Event()
done, wrong = {}, []


async def vanish(reader, writer):
    """Half a head, then nobody."""
    writer.write(b"GET /bytes/100 HTTP/1.1\r\nHost: body.exa")


async def abort(reader, writer):
    """A reset in the midst of a large answer."""
    writer.write(b"GET /bytes/1048576 HTTP/1.1\r\nHost: body.example\r\n\r\n")
    await reader.read(random.randint(1, 50_000))
    linger(writer)


async def slow_reader(reader, writer):
    writer.write(b"GET /bytes/1048576 HTTP/1.1\r\nHost: body.example\r\n\r\n" * 3)
    for _ in range(30):
        await reader.read(4096)
        await asyncio.sleep(0.1)
    if random.random() < 0.5:
        linger(writer)


async def slow_head(reader, writer):
    for byte in b"GET / HTTP/1.1\r\nHost: body.example\r\nX-Slow: yes\r\n\r\n":
        writer.write(bytes((byte,)))
        await asyncio.sleep(0.1)


async def garbage(reader, writer):
    writer.write(random.randbytes(random.randint(1, 3000)))
    writer.write(b"\r\n\r\n")
    check_refused(await reader.read(100), "garbage")


async def two_lengths(reader, writer):
    writer.write(b"POST /sum HTTP/1.1\r\nHost: body.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    check_refused(await reader.read(100), "two_lengths")


async def cut_upload(reader, writer):
    writer.write(b"POST /sum HTTP/1.1\r\nHost: body.example\r\nContent-Length: 1048576\r\n\r\n" + bytes(random.randint(0, 900_000)))
    await writer.drain()
    if random.random() < 0.5:
        linger(writer)


async def bad_chunks(reader, writer):
    writer.write(b"POST /sum HTTP/1.1\r\nHost: body.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n")
    answer = await reader.read(100)
    if answer.startswith(b"HTTP/1.1 200"):
        wrong.append(f"bad_chunks: {answer[:60]!r}")


async def half_close(reader, writer):
    """It has left, as `abort_on_close` has it: its answer may be cut off anywhere, and be nothing at all."""
    writer.write(b"GET /bytes/1000 HTTP/1.1\r\nHost: body.example\r\n\r\n")
    writer.write_eof()
    answer = await reader.read()
    if not answer.startswith(b"HTTP/1.1 200"[:len(answer)]):
        wrong.append(f"half_close: {answer[:60]!r}")


async def idle(reader, writer):
    """Longer than the key timeout_http_keep_alive: it is closed on."""
    writer.write(b"GET /bytes/10 HTTP/1.1\r\nHost: body.example\r\n\r\n")
    await reader.read()


async def leave_held(reader, writer):
    writer.write(b"GET /left HTTP/1.1\r\nHost: always.example\r\n\r\n")
    await asyncio.sleep(random.random() * 2)
    if random.random() < 0.5:
        linger(writer)


async def faulty(reader, writer):
    kind = random.choice(FAULTY)
    writer.write(b"GET /bytes/10 HTTP/1.1\r\nHost: %s.example\r\n\r\n" % kind.encode())
    answer = await reader.read(200)
    if answer and answer.split(b" ", 2)[1] not in FAULTY_STATUS:
        wrong.append(f"faulty {kind}: {answer[:60]!r}")
    if random.random() < 0.5:
        await reader.read()


async def no_host(reader, writer):
    writer.write(b"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
    answer = await reader.read(100)
    if not answer.startswith(b"HTTP/1.1 503"):
        wrong.append(f"no_host: {answer[:60]!r}")


async def cut_tunnel(reader, writer):
    writer.write(bytes(random.randint(1, 200_000)))
    await reader.read(10)
    linger(writer)


SCRIPTS = (vanish, abort, slow_reader, slow_head, garbage, two_lengths, cut_upload, bad_chunks, half_close, idle,
           leave_held, faulty, faulty, faulty, no_host, cut_tunnel)


def check_refused(answer, what):
    """Not one byte of it may have been taken for a request. (Closed without a word: it was reset.)"""
    if answer and answer.split(b" ", 2)[1] not in (b"400", b"414", b"431", b"501", b"505"):
        wrong.append(f"{what}: {answer[:60]!r}")


def linger(writer):
    """Closes with a reset."""
    one = writer.get_extra_info("socket")
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def client(ports):
    while not over.is_set():
        script = random.choice(SCRIPTS)
        writer = None
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", ports[script is cut_tunnel])
                await script(reader, writer)
        except (OSError, TimeoutError):
            pass  # what the daemon does to them is its own affair, if it bears it
        finally:
            if writer:
                writer.transport.abort() if random.random() < 0.3 else writer.close()
        done[script.__name__] = done.get(script.__name__, 0) + 1
        await asyncio.sleep(random.random() / 5)


async def main():
    ports = int(sys.argv[1]), int(sys.argv[2])
    tasks = [asyncio.create_task(client(ports)) for _ in range(CLIENTS)]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    over.set()
    await asyncio.gather(*tasks)
    print(json.dumps({"done": done, "wrong": wrong[:20]}))


asyncio.run(main())
