"""An application for loadtest/restarts: answers every GET with its path. On SIGTERM it accepts no more,
answers what it has begun to read, closes idle connections, and ends."""

import selectors
import signal
import socket
import sys

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(128)
listener.setblocking(False)
chosen = selectors.DefaultSelector()
chosen.register(listener, selectors.EVENT_READ)
stop_read, stop_write = socket.socketpair()
stop_write.setblocking(False)
signal.set_wakeup_fd(stop_write.fileno())
signal.signal(signal.SIGTERM, lambda *_: None)
chosen.register(stop_read, selectors.EVENT_READ)
received = {}


def serve(client):
    """Answers what is complete; False when the client has ended."""
    try:
        data = client.recv(65536)
    except (ConnectionError, BlockingIOError):
        data = b""
    if not data:
        return False
    received[client] += data
    while b"\r\n\r\n" in received[client]:
        head, received[client] = received[client].split(b"\r\n\r\n", 1)
        body = head.split(b" ", 2)[1] + b"\n"
        client.setblocking(True)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        client.setblocking(False)
    return True


def leave(client):
    chosen.unregister(client)
    del received[client]
    client.close()


running = True
while running:
    for key, _ in chosen.select():
        if key.fileobj is listener:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setblocking(False)
            received[client] = b""
            chosen.register(client, selectors.EVENT_READ)
        elif key.fileobj is stop_read:
            running = False
        elif not serve(key.fileobj):
            leave(key.fileobj)

listener.close()
for client in list(received):
    # What has arrived is answered; the rest of an idle connection is nobody's.
    client.setblocking(False)
    serve(client)
    client.close()
