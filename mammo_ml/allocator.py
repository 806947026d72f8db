"""How this process keeps its memory: what arrays free stays at hand for the next ones."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""
KEPT_BYTES = 2**31 - 1
"""Free memory at the heap's end beyond this goes back to the system."""


def keep_freed_memory() -> None:
    """Keep freed memory in the process, and large arrays on large pages; to be called before the first tensor is made.

    Each step of a network makes and frees hundreds of MiB. glibc returns arrays beyond a size to the system, which
    hands them out again in pages of 4 KiB, each zeroed at its first touch: without that a training step of the six
    layers is 1.3 times as fast, one of the small detector 1.2 times (reports/benchmarks/allocator.json). No result
    changes. Other C libraries than glibc, and a THP_MEM_ALLOC_ENABLE that is set already, are left as they are.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
