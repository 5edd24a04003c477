"""sniffer.budget: the container's limit, on trees of files as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from sniffer.budget import MIB, Budget, fit_budget, for_traffic, memory_limit, promised, resident

V1_UNLIMITED = "9223372036854771712"


def tree(tmp_path: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A cgroup mount with `files`, and a proc whose self/cgroup is `membership`."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(membership)
    root.mkdir()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root, proc


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        pytest.param("0::/\n", {"memory.max": str(256 * MIB)}, 256 * MIB, id="v2 in its own namespace"),
        pytest.param("0::/\n", {"memory.max": "max"}, None, id="v2 unlimited"),
        pytest.param("0::/\n", {}, None, id="v2 at the root of the host"),
        pytest.param(
            "0::/pod/app\n",
            {"memory.max": "max", "pod/memory.max": str(100 * MIB), "pod/app/memory.max": str(300 * MIB)},
            100 * MIB,
            id="v2 nested: the least ancestor counts",
        ),
        pytest.param(
            "0::/kubepods/pod1/abc\n", {"memory.max": str(64 * MIB)}, 64 * MIB, id="v2 path of the host, own mount"
        ),
        pytest.param("0::/../other\n", {"memory.max": str(64 * MIB)}, 64 * MIB, id="v2 outside of the namespace"),
        pytest.param(
            "5:cpu,memory:/docker/1\n4:pids:/x\n",
            {"memory/docker/1/memory.limit_in_bytes": str(512 * MIB), "memory/memory.limit_in_bytes": V1_UNLIMITED},
            512 * MIB,
            id="v1",
        ),
        pytest.param("5:memory:/\n", {"memory/memory.limit_in_bytes": V1_UNLIMITED}, None, id="v1 unlimited"),
        pytest.param(
            "5:memory:/a/b\n",
            {"memory/a/memory.limit_in_bytes": str(10 * MIB), "memory/a/b/memory.limit_in_bytes": str(20 * MIB)},
            10 * MIB,
            id="v1 nested",
        ),
        pytest.param(
            "5:memory:/a\n0::/a\n",
            {"memory/a/memory.limit_in_bytes": str(30 * MIB), "unified/a/cgroup.procs": ""},
            30 * MIB,
            id="hybrid: v1 controller",
        ),
        pytest.param(
            "5:cpu:/a\n0::/a\n", {"unified/a/memory.max": str(40 * MIB)}, 40 * MIB, id="hybrid: v2 controller"
        ),
        pytest.param("5:cpu:/a\nodd line\n", {}, None, id="no memory controller"),
        pytest.param("0::/\n", {"memory.max": "lots"}, None, id="unreadable number"),
    ],
)
def test_memory_limit(tmp_path: Path, membership: str, files: dict[str, str], limit: int | None) -> None:
    """The least limit over all hierarchies and ancestors counts; none is None."""
    assert memory_limit(*tree(tmp_path, membership, files)) == limit


def test_memory_limit_without_proc(tmp_path: Path) -> None:
    """Where the system has no cgroups there is no limit."""
    assert memory_limit(tmp_path / "none", tmp_path / "none") is None


def test_resident(tmp_path: Path) -> None:
    """The resident size is the kernel's figure, or 0 where it gives none."""
    (tmp_path / "self").mkdir()
    assert resident(tmp_path) == 0
    (tmp_path / "self" / "status").write_text("Name:\tpython\nVmRSS:\t   2048 kB\n")
    assert resident(tmp_path) == 2 * MIB
    (tmp_path / "self" / "status").write_text("Name:\tkthread\n")
    assert resident(tmp_path) == 0


def test_default_budget() -> None:
    """Half of the limit, 128 MiB without one, and no warning in either case."""
    assert fit_budget(None, 512 * MIB, 64 * MIB) == (256 * MIB, [])
    assert fit_budget(None, None, 64 * MIB) == (128 * MIB, [])


def test_small_budget_is_used_and_warned_about() -> None:
    """Below 8 MiB the budget stays what was asked for."""
    budget, warnings = fit_budget(4 * MIB, None, 64 * MIB)
    assert budget == 4 * MIB
    assert len(warnings) == 1
    assert "used as it is" in warnings[0]


def test_budget_that_does_not_fit_is_lowered() -> None:
    """Beside the process, 1.25 times the budget stays within the limit, and the warning says both figures."""
    budget, warnings = fit_budget(240 * MIB, 256 * MIB, 64 * MIB)
    assert 64 * MIB + 1.25 * budget <= 256 * MIB
    assert len(warnings) == 1
    assert "lowered from 240.0 MiB to 153.6 MiB" in warnings[0]


def test_limit_below_the_process_itself() -> None:
    """A container that is too small for the process leaves the least budget, with both warnings."""
    budget, warnings = fit_budget(None, 32 * MIB, 64 * MIB)
    assert budget == MIB
    assert len(warnings) == 2


def test_what_the_process_works_with_is_in_the_budget() -> None:
    """A quarter of the budget is on top of it for that; what does not fit comes out of it, three quarters at most."""
    assert for_traffic(128 * MIB, 9 * MIB) == 128 * MIB
    assert for_traffic(32 * MIB, 10 * MIB) == 30 * MIB
    assert for_traffic(8 * MIB, 9 * MIB) == 2 * MIB
    assert for_traffic(4 * MIB, 9 * MIB) == 4 * MIB  # warned about, and used as it is
    for budget in range(8 * MIB, 64 * MIB, MIB):
        assert for_traffic(budget, 6 * MIB) + 6 * MIB <= budget * 5 // 4


def test_what_is_promised_is_said_in_bytes() -> None:
    """1.25 times the budget beside the process; with a small one, what the process works with comes on top."""
    assert promised(40 * MIB, 64 * MIB, 9 * MIB) == 120 * MIB
    assert promised(40 * MIB, 4 * MIB, 9 * MIB) == 53 * MIB


def test_the_parts_of_the_budget_are_all_of_it() -> None:
    """Table, hand-off and lanes take the budget between them; what an output keeps is half of the lanes' part."""
    budget = Budget(128 * MIB)
    assert budget.table + budget.handoff + budget.lanes == budget.total
    assert (budget.table, budget.handoff, budget.kept, budget.pump) == (64 * MIB, 32 * MIB, 16 * MIB, 4 * MIB)
