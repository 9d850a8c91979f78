"""One measurement: a load against one proxy, and what the proxy used meanwhile.

The proxy has one CPU for itself, the load (wrk, or talk.rs for what wrk cannot do) and the backend share
another. On a small machine those two are often the limit of the *rate*; the comparison therefore rests on
CPU time per request, and every run records how busy the CPUs of both sides were, what else ran there and
what the hypervisor took.
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

# What paced.rs counts: connections refused, ended before the answer, answers other than 200, none at the end.
PACED_ERRORS = ("refused", "broken", "wrong", "unanswered")
ERRORS = ("connect", "read", "write", "timeout", "status")


def measure(fixture, peer, case, connections, seconds):
    """Starts the proxy, warms it up, measures; returns one record of the report."""
    proxy, port = fixture.start(peer, case)
    load = None
    try:
        soak = case.name == "soak"
        calls = None
        if not soak:
            calls = _system_calls(fixture, proxy, case, port, connections)
        watch = Watch(fixture, proxy, case)
        load = _load(fixture, case, port, connections, seconds)
        early_bytes = 0
        if soak:
            time.sleep(min(EARLY_S, seconds / 2))
            early_bytes = proxy.resident_bytes()
        else:
            time.sleep(seconds / 2)
        late_bytes = proxy.resident_bytes()
        output, _ = load.communicate()
        used = watch.stop()
        end_bytes = proxy.resident_bytes()
        summary = _summary(load, output)
        ended = not proxy.alive()
    finally:
        if load and load.poll() is None:  # interrupted
            load.kill()
        proxy.stop()

    units = summary["bytes"] / cases.MIB if case.body_bytes else summary["requests"]
    units = max(units, 1e-9)
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
        **used["shares"],
        "errors": errors,
        "early_bytes": early_bytes,
        "resident_bytes": max(late_bytes, end_bytes),
        "end_bytes": end_bytes,
        "requests": summary["requests"],
        "calls": calls,
    }


class Watch:
    """What the proxy uses, and whose the CPUs are, between two moments."""

    def __init__(self, fixture, proxy, case):
        self.proxy, self.case = proxy, case
        self.cpus = fixture.cpus_for(case.shards)
        self.load_cpus = fixture.load_cpus(case)
        self.before = proxy.usage()
        self.cpu_before = {cpu: cpu_times(cpu) for cpu in (*self.cpus, *self.load_cpus)}

    def stop(self):
        used = self.proxy.usage().since(self.before)
        cpu = {number: cpu_times(number).since(then) for number, then in self.cpu_before.items()}
        own = used["cpu_us"] / 1e6 / used["wall_s"] / self.case.shards
        all_of_it = sum(cpu[number]["busy"] for number in self.cpus) / self.case.shards
        used["shares"] = {
            "busy": own,
            # Kernel threads, soft interrupts and strangers; the load itself where it shares the CPU.
            "others": max(all_of_it - own, 0.0),
            "stolen": max(one["stolen"] for one in cpu.values()),
            "load_busy": max(cpu[number]["busy"] for number in self.load_cpus),
        }
        return used


def _system_calls(fixture, proxy, case, port, connections):
    """Warms up, and counts system calls per request meanwhile, where perf may; None elsewhere."""
    warm = _load(fixture, case, port, connections, WARM_UP_S)
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
        _load(fixture, case, port, connections, WARM_UP_S).communicate()
        watch = Watch(fixture, proxy, case)
        found = paced(fixture, port, cases.host(4321), connections, rate, seconds)
        used = watch.stop()
    finally:
        proxy.stop()
    errors = {name: found[name] for name in (*PACED_ERRORS, "reconnects") if found[name]}
    return {
        **found,
        **used["shares"],
        "errors": errors,
        "rate": rate,
        "cpu_us": used["cpu_us"] / max(found["requests"], 1),
    }


def paced(fixture, port, hosts, connections, rate, seconds):
    """The open loop; `hosts` is a name, or `@file` of names. Returns what paced.rs prints."""
    command = [fixture.example("paced"), f"127.0.0.1:{port}", hosts, "/small"]
    command += [str(connections), str(rate), str(seconds)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {fixture.load_cpu}),
    )
    if done.returncode:
        raise RunError(f"paced failed (code {done.returncode}): {done.stderr}")
    return json.loads(done.stdout)


def peak(fixture, peer, case, connections):
    """Requests a second that a proxy manages, in a short run."""
    proxy, port = fixture.start(peer, case)
    try:
        load = _load(fixture, case, port, connections, PEAK_S)
        summary = _summary(load, load.communicate()[0])
    finally:
        proxy.stop()
    return summary["requests"] / (summary["load_us"] / 1e6)


def _load(fixture, case, port, connections, seconds):
    """Starts the closed loop of a case; it prints a line `SUMMARY {…}` at its end."""
    if case.load == "wrk":
        command = [program_path("wrk"), "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{seconds}s", "--timeout", "30s"]
        command += ["--script", str(HERE / "load/wrk.lua")]
        command += ["--header", f"Host: {cases.host(4321)}"]
        if case.close:
            command += ["--header", "Connection: close"]
        command.append(f"http://127.0.0.1:{port}{case.path}")
    else:
        body = str(fixture.folder / "www/100m")
        command = [fixture.example("talk"), case.load, f"127.0.0.1:{port}", cases.host(4321)]
        command += [case.path, str(connections), str(seconds), body]
    hosts = str(case.hosts) if case.all_hosts else "0"
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
        preexec_fn=lambda: os.sched_setaffinity(0, fixture.load_cpus(case)),
    )


def _summary(load, output):
    found = re.search(r"^SUMMARY (\{.*\})$", output, re.MULTILINE)
    if load.returncode or not found:
        raise RunError(f"the load failed (code {load.returncode}):\n{output}")
    return json.loads(found.group(1))
