"""What the machine does: processes, processor use, GPU memory."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def cores():
    return len(os.sched_getaffinity(0))


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown processor"


def nvidia_smi(*arguments):
    """The lines that nvidia-smi prints as CSV; none where it cannot run."""
    program = shutil.which("nvidia-smi", path=os.environ.get("PATH", "")
                           + ":/usr/bin:/usr/local/nvidia/bin")
    if program is None:
        return []
    done = subprocess.run([program, *arguments, "--format=csv,noheader,nounits"],
                          capture_output=True, text=True, timeout=20,
                          check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def gpu():
    """Name, driver and MiB of the first GPU, in words; None without one."""
    lines = nvidia_smi("--query-gpu=name,driver_version,memory.total")
    if not lines:
        return None
    name, driver, total = (field.strip() for field in lines[0].split(","))
    return f"{name}, {total} MiB, driver {driver}"


def gpu_used_mib():
    """Used on the first GPU, by anyone; None where that is not known."""
    lines = nvidia_smi("--query-gpu=memory.used")
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def gpu_process_mib(pid):
    """Of one process; None where the driver does not tell its number, as in
    most containers."""
    for line in nvidia_smi("--query-compute-apps=pid,used_memory"):
        fields = [field.strip() for field in line.split(",")]
        if fields[0] == str(pid) and fields[1].isdigit():
            return int(fields[1])
    return None


class MemoryMeter:
    """GPU memory of one process: as the driver tells, or what the GPU's use
    has grown by since this was made, before the process began."""

    def __init__(self):
        self.before = gpu_used_mib()

    def mib(self, pid):
        own = gpu_process_mib(pid)
        if own is not None:
            return own
        used = gpu_used_mib()
        return None if None in (used, self.before) else used - self.before


def _stat(pid):
    """The fields of /proc/PID/stat after the program's name."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8",
                                                       errors="replace")
    return text.rpartition(")")[2].split()


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = _stat(entry)
        except OSError:
            continue  # Has just ended.
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry))
    return found


def process_cpu_seconds(pid):
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_cpu_seconds():
    """Of all cores, spent on anything but waiting."""
    with open("/proc/stat", encoding="utf-8") as stat:
        fields = [int(field) for field in stat.readline().split()[1:9]]
    idle, iowait = fields[3], fields[4]
    return (sum(fields) - idle - iowait) / TICKS


class CpuMeter:
    """Cores in use since this was made, on average."""

    def __init__(self, pid):
        self.pid, self.start = pid, time.monotonic()
        self.process = process_cpu_seconds(pid)
        self.machine = machine_cpu_seconds()

    def cores(self):
        """(of the process, of the whole machine)"""
        seconds = max(1e-3, time.monotonic() - self.start)
        return ((process_cpu_seconds(self.pid) - self.process) / seconds,
                (machine_cpu_seconds() - self.machine) / seconds)


def wait_until(is_true, deadline, pause=0.1):
    """Whether it became true before the deadline."""
    while not (answer := is_true()):
        if deadline.left() <= 0:
            return False
        time.sleep(pause)
    return answer


def stop(process, seconds=15):
    """Ends a process that we started: asks, then insists."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def kill(pid):
    os.kill(pid, signal.SIGKILL)
