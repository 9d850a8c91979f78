"""Rounds of `mantrid-client restart` with load on two nodes: every request must be answered with 200.

    MANTRID=target/release/mantrid python3 loadtest/fleet/restarts.py [ROUNDS]
"""

import http.client
import os
import subprocess
import sys
import threading
import time

from cluster import PROGRAM, Cluster, free_ports

APPLICATION = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(0.002)
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer.request_queue_size = 512
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# As a service manager does: the old one is gone before the new one is started.
RESTART = """
import os, signal, socket, subprocess, sys, time
port, file = sys.argv[1:3]
with open(file) as pid: os.kill(int(pid.read()), signal.SIGKILL)
while socket.socket().connect_ex(("127.0.0.1", int(port))) == 0: time.sleep(0.005)
app = subprocess.Popen([sys.executable, file + ".py", port], start_new_session=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
with open(file, "w") as pid: pid.write(str(app.pid))
"""


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with Cluster(nodes=2) as cluster:
        cluster.start_nodes()
        port, file = free_ports(1)[0], f"{cluster.folder}/application"
        with open(file + ".py", "w") as script:
            script.write(APPLICATION)
        application = subprocess.Popen([sys.executable, file + ".py", str(port)])
        with open(file, "w") as pid:
            pid.write(str(application.pid))
        threading.Thread(target=application.wait, daemon=True).start()
        rule = ["proxy", {"backends": [f"127.0.0.1:{port}"], "attempts": 20, "delay": 0.05}, True]
        cluster.nodes[0].ask("PUT", "/hostname/app.example/?wait=fleet", rule)
        over, answers = threading.Event(), {}

        def load(node):
            connection = http.client.HTTPConnection("127.0.0.1", node.client_port, timeout=60)
            while not over.is_set():
                try:
                    connection.request("GET", "/", headers={"Host": "app.example"})
                    answer = connection.getresponse()
                    answer.read()
                    kind = answer.status
                except (OSError, http.client.HTTPException) as error:
                    kind = repr(error)
                    connection.close()
                answers[kind] = answers.get(kind, 0) + 1

        threads = [threading.Thread(target=load, args=[node], daemon=True) for node in cluster.nodes for _ in range(4)]
        for thread in threads:
            thread.start()
        client = os.path.join(os.path.dirname(PROGRAM), "mantrid-client")
        began = time.monotonic()
        for at in range(rounds):
            node = cluster.nodes[at % 2]
            done = subprocess.run(
                [client, "--url", f"http://127.0.0.1:{node.port}", "restart", "app.example", "--",
                 sys.executable, "-c", RESTART, str(port), file], capture_output=True, text=True)
            if done.returncode != 0:
                print(f"round {at}: {done.returncode} {done.stderr}")
        took = time.monotonic() - began
        over.set()
        for thread in threads:
            thread.join()
        with open(file) as pid:
            os.kill(int(pid.read()), 9)
        print(f"{rounds} restarts in {took:.0f} s with load on two nodes: answers {answers}")
        if set(answers) != {200}:
            raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
