"""The process's memory: what arrays free is at hand for the next ones."""

import platform
import subprocess
import sys

import pytest

ROUNDS = 20
FAULTS = f"""
import resource, sys
if sys.argv[1] == "kept":
    from mammo_ml.allocator import keep_freed_memory
    keep_freed_memory()
import torch

def make_and_free():
    torch.ones(64 * 2**20, dtype=torch.uint8)

make_and_free()
for _ in range({ROUNDS}):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    make_and_free()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Pages the system has to hand out for an array of 64 MiB made and freed after others.

    The least of some rounds: a system short of memory takes pages back, and has to hand them out again.
    """
    told = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return min(map(int, told.stdout.split()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_arrays_are_not_fetched_from_the_system_again():
    # 64 MiB are 32 pages of 2 MiB at the least.
    assert page_faults("kept") <= 1
    assert page_faults("as it comes") >= 32
