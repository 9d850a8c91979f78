"""One measurement: wrk against one proxy, and what the proxy used meanwhile.

The proxy has one CPU for itself, wrk and the backend share another. On a small machine those two are
often the limit of the *rate*; the comparison therefore rests on CPU time per request, and every run
records how busy the proxy's CPU was, what else ran there and what the hypervisor took.
"""

import json
import os
import re
import subprocess
import time

from harness import cases
from harness.peers import HERE, program_path
from harness.process import RunError, cpu_times

WARM_UP_S = 1  # wrk's shortest run
EARLY_S = 5  # when the soak case looks at memory for the first time

ERRORS = ("connect", "read", "write", "timeout", "status")


def measure(fixture, peer, case, connections, seconds):
    """Starts the proxy, warms it up, measures; returns one record of the report."""
    proxy, port = fixture.start(peer, case)
    wrk = None
    try:
        soak = case.name == "soak"
        if not soak:
            _wrk(fixture, case, port, connections, WARM_UP_S).communicate()
        cpus = fixture.cpus_for(case.shards)
        cpu_before = [cpu_times(cpu) for cpu in cpus]
        load_before = cpu_times(fixture.load_cpu)
        before = proxy.usage()
        wrk = _wrk(fixture, case, port, connections, seconds)
        early_bytes = 0
        if soak:
            time.sleep(min(EARLY_S, seconds / 2))
            early_bytes = proxy.resident_bytes()
        else:
            time.sleep(seconds / 2)
        late_bytes = proxy.resident_bytes()
        output, _ = wrk.communicate()
        used = proxy.usage().since(before)
        cpu = [after.since(then) for after, then in zip(map(cpu_times, cpus), cpu_before)]
        load = cpu_times(fixture.load_cpu).since(load_before)
        end_bytes = proxy.resident_bytes()
        summary = _summary(wrk, output)
        ended = not proxy.alive()
    finally:
        if wrk and wrk.poll() is None:  # interrupted
            wrk.kill()
        proxy.stop()

    units = summary["bytes"] / cases.MIB if case.body_bytes else summary["requests"]
    units = max(units, 1e-9)
    own = used["cpu_us"] / 1e6 / used["wall_s"]
    errors = {name: summary[name] for name in ERRORS if summary[name]}
    if ended:
        errors["proxy ended"] = 1
    return {
        "requests_per_s": summary["requests"] / (summary["load_us"] / 1e6),
        "mib_per_s": summary["bytes"] / cases.MIB / (summary["load_us"] / 1e6),
        "cpu_us": used["cpu_us"] / units,
        "user_us": used["user_us"] / units,
        "system_us": used["system_us"] / units,
        "p50_us": summary["p50_us"],
        "p99_us": summary["p99_us"],
        "busy": own / case.shards,
        # Kernel threads, soft interrupts and strangers; the load itself where it shares the CPU.
        "others": max(sum(one["busy"] for one in cpu) / case.shards - own / case.shards, 0.0),
        "stolen": max([one["stolen"] for one in cpu] + [load["stolen"]]),
        "load_busy": load["busy"],
        "errors": errors,
        "early_bytes": early_bytes,
        "resident_bytes": max(late_bytes, end_bytes),
        "end_bytes": end_bytes,
        "requests": summary["requests"],
    }


def _wrk(fixture, case, port, connections, seconds):
    command = [program_path("wrk"), "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "30s"]
    command += ["--script", str(HERE / "load/wrk.lua")]
    command += ["--header", f"Host: {cases.host(4321)}"]
    if case.close:
        command += ["--header", "Connection: close"]
    command.append(f"http://127.0.0.1:{port}{case.path}")
    hosts = str(cases.HOSTS) if case.all_hosts else "0"
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "HOSTS": hosts},
        preexec_fn=lambda: os.sched_setaffinity(0, {fixture.load_cpu}),
    )


def _summary(wrk, output):
    found = re.search(r"^SUMMARY (\{.*\})$", output, re.MULTILINE)
    if wrk.returncode or not found:
        raise RunError(f"wrk failed (code {wrk.returncode}):\n{output}")
    return json.loads(found.group(1))
