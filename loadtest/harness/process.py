"""A measured process: started on given CPUs, and what the kernel says it has used.

CPU time comes from the process's CPU clock (clock_getcpuclockid(3)): nanoseconds, all threads, also
those that ended. /proc/PID/stat counts the same in ticks of 10 ms; only the ratio of user to system is
taken from there. Resident memory is Pss of /proc/PID/smaps_rollup: exact, where VmRSS is rounded per
CPU, and pages that an nginx master shares with its worker count once.
"""

import fcntl
import os
import resource
import signal
import stat
import struct
import subprocess
import termios
import time
from dataclasses import dataclass


class RunError(Exception):
    """A program did not do its part; the text says which, and the last lines it wrote."""


@dataclass(frozen=True)
class Usage:
    """What a set of processes had used at one moment."""

    at_ns: int
    cpu_ns: int
    user_ticks: int
    system_ticks: int

    def since(self, before):
        """Used between two moments: wall seconds, CPU, user and system in microseconds."""
        cpu_us = (self.cpu_ns - before.cpu_ns) / 1000
        user = self.user_ticks - before.user_ticks
        system = self.system_ticks - before.system_ticks
        share = user / (user + system) if user + system else 0.0
        return {
            "wall_s": (self.at_ns - before.at_ns) / 1e9,
            "cpu_us": cpu_us,
            "user_us": cpu_us * share,
            "system_us": cpu_us * (1 - share),
        }


class Process:
    """A program and its children, pinned, writing to a log of its own, gone when stopped."""

    def __init__(self, name, command, cpus, log):
        self.name = name
        self.log = log

        def pin():
            os.sched_setaffinity(0, cpus)

        with open(log, "wb") as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # pids() finds the children by it
                preexec_fn=pin,
            )

    def wait_for(self, is_ready, seconds=60.0):
        """Waits until `is_ready()`; a program that ends or stays silent is an error with its log."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            code = self.popen.poll()
            if code is not None:
                raise RunError(f"{self.name} ended with code {code}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise RunError(f"{self.name} is not ready after {seconds:.0f} s:\n{self.tail()}")
            time.sleep(0.01)

    def text(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def tail(self):
        return "\n".join(f"  | {line}" for line in self.text().splitlines()[-12:]) or "  | (no output)"

    def alive(self):
        return self.popen.poll() is None

    def pids(self):
        """The program and its children: everything in the session that it leads."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                fields = _stat(entry)
                if fields and int(fields[3]) == self.popen.pid and fields[0] != "Z":
                    found.append(int(entry))
        return found

    def usage(self):
        cpu_ns = user = system = 0
        for pid in self.pids():
            fields = _stat(pid)
            try:
                cpu_ns += time.clock_gettime_ns((~pid << 3) | 2)  # CPUCLOCK_SCHED of that process
            except OSError:
                continue
            if fields:
                # Its children that have ended (the workers before a reload), in ticks, after its own.
                gone = [int(ticks) for ticks in fields[13:15]]
                cpu_ns += sum(gone) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
                user += int(fields[11]) + gone[0]
                system += int(fields[12]) + gone[1]
        return Usage(time.monotonic_ns(), cpu_ns, user, system)

    def resident_bytes(self):
        total = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as rollup:
                    for line in rollup:
                        if line.startswith("Pss:"):
                            total += int(line.split()[1]) * 1024
            except OSError:
                pass  # it just ended
        return total

    def pipe_bytes(self):
        """Bytes of pipe buffers in use: kernel memory that a splicing proxy holds beside its own."""
        seen = {}
        for pid in self.pids():
            folder = f"/proc/{pid}/fd"
            for number in os.listdir(folder):
                try:
                    about = os.stat(f"{folder}/{number}")
                    if not stat.S_ISFIFO(about.st_mode) or about.st_ino in seen:
                        continue
                    end = os.open(f"{folder}/{number}", os.O_RDONLY | os.O_NONBLOCK)
                except OSError:
                    continue
                try:
                    held = fcntl.ioctl(end, termios.FIONREAD, b"\0" * 4)
                    seen[about.st_ino] = struct.unpack("i", held)[0]
                except OSError:
                    pass
                finally:
                    os.close(end)
        return sum(seen.values())

    def stop(self):
        """Asks for an end, then insists. Only the session that was started here is signalled."""
        for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            try:
                os.killpg(self.popen.pid, number)
            except ProcessLookupError:
                break
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
            deadline = time.monotonic() + seconds
            while self.pids() and time.monotonic() < deadline:
                time.sleep(0.01)
            if not self.pids():
                break


def _stat(pid):
    """/proc/PID/stat from the third field (state) on; None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None


@dataclass(frozen=True)
class CpuTimes:
    """One line `cpuN` of /proc/stat, in ticks."""

    busy: int
    stolen: int  # by the hypervisor: the machine's neighbours
    total: int

    def since(self, before):
        total = max(self.total - before.total, 1)
        return {
            "busy": (self.busy - before.busy) / total,
            "stolen": (self.stolen - before.stolen) / total,
        }


def cpu_times(cpu):
    """What a CPU has done for everyone: tells a busy load generator and noisy neighbours."""
    with open("/proc/stat") as file:
        for line in file:
            if line.startswith(f"cpu{cpu} "):
                user, nice, system, idle, iowait, irq, softirq, steal = map(int, line.split()[1:9])
                busy = user + nice + system + irq + softirq
                return CpuTimes(busy, steal, busy + idle + iowait + steal)
    raise SystemExit(f"loadtest: there is no CPU {cpu}")


def raise_descriptor_limit():
    """The soft limit up to the hard one, for us and all we start; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
