"""How exactly a cap on cores is held, and what the small parts of a node cost.

    .venv/bin/python tests/bench/caps.py [--seconds 10]

For each method that works here, a child that spins on one and on two threads, capped to
a quarter of a core: the share it got. Then what the watchdog costs while it holds one,
and the CPU-seconds of loading the digits. On an otherwise idle machine: the figures
depend on its speed and load, so no test asks for them.
"""

import argparse
import sys
import time
from collections.abc import Iterator

import psutil

from common.config import DatasetConfig, ProfileConfig
from common.data.datasets import load_dataset
from edge.limits import open_executor, probe_methods

QUARTER = ProfileConfig(cpus=0.25, memory_mib=100, bandwidth_kib_s=1)
# Spins in C without the GIL, so that two threads use two cores.
SPIN = """
import hashlib, threading, sys
for _ in range(int(sys.argv[1])):
    spin = ("md5", b"", b"", 1 << 30)
    threading.Thread(target=hashlib.pbkdf2_hmac, args=spin).start()
"""


def shares(seconds: float) -> Iterator[tuple[str, int, float, float]]:
    """Yield each method, the child's threads, its cores, and those of this process."""
    for method in (report.method for report in probe_methods(QUARTER) if report.works):
        if method == "inherited":  # the container's own, for this process as well
            continue
        for threads in (1, 2):
            with open_executor(
                QUARTER, name="bench", method=method, minimum_mib=1
            ) as executor:
                argv = [sys.executable, "-I", "-S", "-c", SPIN, str(threads)]
                child = psutil.Process(executor.spawn(argv).pid)
                time.sleep(1)  # the start is not spinning
                started, own = time.monotonic(), time.process_time()
                before = child.cpu_times()
                time.sleep(seconds)
                after, took = child.cpu_times(), time.monotonic() - started
                used = after.user + after.system - before.user - before.system
                own = time.process_time() - own
            yield method, threads, used / took, own / took


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    print("method      threads  cores (0.25 allowed)  cores of the node's own process")
    for method, threads, share, own in shares(seconds):
        print(f"{method:13} {threads:5}  {share:20.3f}  {own:31.4f}")
    began = time.process_time()
    load_dataset(DatasetConfig(), seed=0)
    print(f"loading the digits: {time.process_time() - began:.2f} CPU-s")


if __name__ == "__main__":
    main()
