"""How much memory traffic may fill: the container's limit, the budget that follows from it, and its parts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final, NamedTuple

MIB: Final = 1 << 20
DEFAULT_BUDGET: Final = 128 * MIB
"""The budget where no container limits the memory."""
SMALL_BUDGET: Final = 8 * MIB
"""With less than this, ordinary traffic is evicted."""
LEAST_BUDGET: Final = MIB
PROCESS: Final = 72 * MIB
"""Resident memory of the daemon with every output before any traffic, rounded up."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Parameters of mallopt, from glibc's malloc.h."""
UNLIMITED: Final = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2**63."""


def memory_limit(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int | None:
    """The memory limit of this process's cgroup in bytes; None if there is none.

    `root` is where the cgroups are mounted, `proc` the proc file system: cgroup v2 (one tree), v1 (`memory` below
    `root`) and hybrid (v1 controllers, v2 in `unified`) are understood. The least limit over all ancestors counts.
    """
    limits: list[int] = []
    for tree, path, name in _memberships(root, proc):
        # In a container the path may be the host's, of which only the part below the container's own is mounted:
        # then the mount's root is our cgroup.
        steps = [part for part in path.split("/") if part not in ("", "..", ".")]
        for depth in range(len(steps), -1, -1):
            limit = _read_limit(tree.joinpath(*steps[:depth], name))
            if limit is not None:
                limits.append(limit)
    return min(limits, default=None)


def _memberships(root: Path, proc: Path) -> list[tuple[Path, str, str]]:
    """Mount, path below it and name of the limit's file, for each hierarchy that can limit this process's memory."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            unified = root / "unified"
            found.append((unified if unified.is_dir() else root, path, "memory.max"))
        elif "memory" in controllers.split(","):
            found.append((root / "memory", path, "memory.limit_in_bytes"))
    return found


def _read_limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    if not text.isdecimal() or int(text) >= UNLIMITED:  # "max" is v2's word for no limit
        return None
    return int(text)


def resident(proc: Path = Path("/proc")) -> int:
    """Resident memory of this process in bytes; 0 if the system does not tell."""
    try:
        for line in (proc / "self" / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Budget(NamedTuple):
    """The memory that traffic may fill, and its parts. Each part is declared here and nowhere else."""

    total: int
    """Bytes."""

    @property
    def table(self) -> int:
        """For the table of connections: reassembly, heads, bodies."""
        return self.total // 2

    @property
    def record(self) -> int:
        """For the longest line or entry of records that are read back; there is no table then. What is made of it takes
        several times as much, one after the other.
        """
        return self.table // 16

    @property
    def handoff(self) -> int:
        """For the messages that wait between the capture thread and the event loop."""
        return self.total // 4

    @property
    def lanes(self) -> int:
        """For the messages that wait in all lanes together."""
        return self.total // 4

    @property
    def kept(self) -> int:
        """For the messages that an output keeps after they were delivered; it comes out of the lanes' part."""
        return self.total // 8

    @property
    def judge(self) -> int:
        """For the messages that wait to be judged by `WHERE` or `KEEP`; it comes out of the lanes' part."""
        return self.total // 16

    @property
    def pump(self) -> int:
        """What the pump makes of messages before it offers them, decoded bodies and Python objects, it makes of as many
        at a time as weigh this much: the lanes may have no room for more.
        """
        return self.total // 32


CAPTURE_WORKING: Final = 2 << 20
"""Bytes that the capture works with: a batch of packets. What each output works with, the output says."""
FIRM_SHARE: Final = 4
"""A lane that stands has so many times the bytes of one that gives way."""


def for_traffic(budget: int, working: int) -> int:
    """The part of a budget in bytes that traffic may fill, where the process needs `working` bytes beside it.

    A quarter of the budget may be used on top of it, for `working` and for memory that the allocator cannot give back.
    What does not fit into that quarter is taken out of the budget, but at most three quarters of it. A budget below
    `SMALL_BUDGET` is used as it is.
    """
    if budget < SMALL_BUDGET:
        return budget
    return max(budget // 4, budget - max(0, working - budget // 4))


def promised(rss: int, budget: int, working: int) -> int:
    """The most that the process will take, in bytes, where it takes `rss` without traffic."""
    return rss + max(budget * 5 // 4, for_traffic(budget, working) + working)


def share_heap(budget: int) -> None:
    """Makes all threads of this process allocate from one heap. To be called before any is started; on glibc only.

    By default each thread has a heap of its own. Memory that the capture thread takes is freed by other threads, and a
    heap shrinks only at its end, so the holes of all heaps would add up. By default glibc also keeps the more free
    memory at that end, the larger the blocks it has seen; here it keeps a small part of the budget. From a budget of 16
    MiB on that is more than a batch of packets takes, which is allocated and freed all the time.
    """
    import ctypes  # needed by the daemon only

    kept = max(budget // 32, MIB // 8)
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_TRIM_THRESHOLD, kept)
        library.mallopt(_M_MMAP_THRESHOLD, kept)


def fit_budget(wanted: int | None, limit: int | None, rss: int) -> tuple[int, list[str]]:
    """The budget to use, and the warnings that say what was done.

    `wanted` None: half of `limit`, or 128 MiB where there is no limit. A budget that does not fit beside `rss` (bytes
    held without traffic) is lowered until `rss` + 1.25 × budget does.
    """
    budget = wanted if wanted is not None else (limit // 2 if limit is not None else DEFAULT_BUDGET)
    warnings = []
    if limit is not None and rss + budget > limit:
        lowered = max(LEAST_BUDGET, min(budget, int((limit - rss) / 1.25)))
        warnings.append(
            f"memory_budget lowered from {_mib(budget)} to {_mib(lowered)}: the process itself takes {_mib(rss)}"
            f" of the container's limit of {_mib(limit)}"
        )
        budget = lowered
    if budget < SMALL_BUDGET:
        warnings.append(
            f"memory_budget of {_mib(budget)} is small: it is used as it is, and connections and bodies"
            f" will be given up early"
        )
    return budget, warnings


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
