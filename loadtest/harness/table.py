"""A Mantrid with a table of any size, all of whose rules lead to the harness's backend."""

import json
import os
import sys
import time
from pathlib import Path

from harness import cases
from harness.peers import free_port
from harness.process import Process

CONFIGURATION = """\
bind = 127.0.0.1:{port}
bind_management = 127.0.0.1:{management}
state_file = {folder}/table/state.json
static_dir = {folder}/static/
shards = {shards}
cpus = {cpus}
uid = {uid}
gid = {gid}
"""


class Table:
    """A running daemon; `process` is to be stopped by whoever made it."""

    def __init__(self, fixture, peer, rules, cpus):
        self.port, self.management = free_port(), free_port()
        self.backend_port = fixture.backend_port
        folder = Path(fixture.folder)
        (folder / "table").mkdir(exist_ok=True)
        for old in (folder / "table").iterdir():
            old.unlink()
        with open(folder / "table/state.json", "w") as state:
            state.write('{"hosts": {\n')
            rule = json.dumps(self.rule())
            for number in range(rules):
                comma = "" if number == 0 else ",\n"
                state.write(f"{comma}{json.dumps(cases.host(number))}: {rule}")
            state.write('\n}, "stats": {}}\n')
        text = CONFIGURATION.format(
            port=self.port,
            management=self.management,
            folder=folder,
            shards=len(cpus),
            cpus=",".join(map(str, cpus)),
            uid=os.getuid(),
            gid=os.getgid(),
        )
        (folder / "table.conf").write_text(text)
        command = [peer.program, "-c", str(folder / "table.conf")]
        began = time.monotonic()
        self.process = Process("mantrid", command, set(cpus), folder / "mantrid.log")
        self.process.wait_for(lambda: "Ready" in self.process.text())
        print(f"{rules:,} rules loaded in {time.monotonic() - began:.2f} s", file=sys.stderr)

    def rule(self):
        return ["proxy", {"backends": [["127.0.0.1", self.backend_port]]}, False]
