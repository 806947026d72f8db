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
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    make_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Pages the system had to hand out for arrays of 64 MiB made and freed after a first one."""
    told = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_arrays_are_not_fetched_from_the_system_again():
    # 64 MiB are 32 pages of 2 MiB at the least.
    assert page_faults("kept") < ROUNDS
    assert page_faults("as it comes") >= 32 * ROUNDS
