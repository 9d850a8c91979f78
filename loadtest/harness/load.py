"""One measurement: wrk against one proxy, and what the proxy used meanwhile.

The proxy has one CPU for itself, wrk and the backend share another. On a small machine those two are
often the limit of the *rate*; the comparison therefore rests on CPU time per request, and every run
records how busy the proxy's CPU was, what else ran there and what the hypervisor took.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from harness import cases
from harness.peers import HERE, program_path
from harness.process import RunError, cpu_times

WARM_UP_S = 1  # wrk's shortest run
PEAK_S = 3
EARLY_S = 5  # when the soak case looks at memory for the first time

ERRORS = ("connect", "read", "write", "timeout", "status")


def measure(fixture, peer, case, connections, seconds):
    """Starts the proxy, warms it up, measures; returns one record of the report."""
    proxy, port = fixture.start(peer, case)
    wrk = None
    try:
        soak = case.name == "soak"
        calls = None
        if not soak:
            calls = _system_calls(fixture, proxy, case, port, connections)
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
        "calls": calls,
    }


def _system_calls(fixture, proxy, case, port, connections):
    """Warms up, and counts system calls per request meanwhile, where perf may; None elsewhere."""
    warm = _wrk(fixture, case, port, connections, WARM_UP_S)
    counter = None
    if shutil.which("perf"):
        command = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", ",".join(map(str, proxy.pids()))]
        counter = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    output, _ = warm.communicate()
    if counter is None:
        return None
    counter.send_signal(signal.SIGINT)
    _, counted = counter.communicate()
    found = re.search(r"^(\d+),.*raw_syscalls", counted, re.MULTILINE)
    requests = _summary(warm, output)["requests"]
    return int(found.group(1)) / requests if found and requests else None


def measure_paced(fixture, peer, case, connections, seconds, rate):
    """Asks at a fixed rate, whether the proxy keeps up or not; returns one record."""
    proxy, port = fixture.start(peer, case)
    try:
        _wrk(fixture, case, port, connections, WARM_UP_S).communicate()
        before = proxy.usage()
        command = [fixture.paced, f"127.0.0.1:{port}", cases.host(4321), case.path]
        command += [str(connections), str(rate), str(seconds)]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {fixture.load_cpu}),
        )
        used = proxy.usage().since(before)
    finally:
        proxy.stop()
    if done.returncode:
        raise RunError(f"paced failed (code {done.returncode}): {done.stderr}")
    found = json.loads(done.stdout)
    errors = {name: found[name] for name in ("errors", "unanswered") if found[name]}
    return {
        **found,
        "errors": errors,
        "rate": rate,
        "cpu_us": used["cpu_us"] / max(found["requests"], 1),
        "busy": used["cpu_us"] / 1e6 / used["wall_s"],
    }


def peak(fixture, peer, case, connections):
    """Requests a second that a proxy manages, in a short run."""
    proxy, port = fixture.start(peer, case)
    try:
        wrk = _wrk(fixture, case, port, connections, PEAK_S)
        summary = _summary(wrk, wrk.communicate()[0])
    finally:
        proxy.stop()
    return summary["requests"] / (summary["load_us"] / 1e6)


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
        env={
            **os.environ,
            "HOSTS": hosts,
            "PIPELINE": str(case.pipeline),
            "UPLOAD": str(case.upload_bytes),
        },
        preexec_fn=lambda: os.sched_setaffinity(0, {fixture.load_cpu}),
    )


def _summary(wrk, output):
    found = re.search(r"^SUMMARY (\{.*\})$", output, re.MULTILINE)
    if wrk.returncode or not found:
        raise RunError(f"wrk failed (code {wrk.returncode}):\n{output}")
    return json.loads(found.group(1))
