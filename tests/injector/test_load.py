from __future__ import annotations

from dataclasses import replace

from tests.injector.load import CALL_TIMEOUT_S, CHANGES, CLIENTS, Report, run


async def test_rotation_under_load_without_a_failed_call() -> None:
    """Four keep-alive clients, five changes and a bad pair: no call fails or takes 5 s, memory stays within its limit.

    How fast the calls are is judged by the command, on a machine that has nothing else to do.
    """
    report = await run(6)
    assert report.problems(p99_ms=1000 * CALL_TIMEOUT_S) == []
    assert len(report.latencies_ms) > 2 * CLIENTS * len(report.certificates)


def test_what_is_wrong_with_a_run_is_found() -> None:
    """Each limit of a run has a run that breaks it."""
    lines = [
        f'tcp_sniffer_injector_certificate_reloads_total{{result="{r}"}} {n}.0'
        for r, n in (("replaced", CHANGES), ("refused", 1))
    ]
    met = {bytes([number]) for number in range(CHANGES + 1)}
    good = Report(60, [1.0] * 100, [], [100, 104], met, "\n".join(lines))
    assert good.problems() == []
    for change in (
        {"failures": ["x"]},
        {"latencies_ms": [1.0] * 98 + [100.0] * 2},
        {"rss": [100, 105, 100]},
        {"metrics": lines[0]},
        {"metrics": lines[1]},
        {"certificates": {b"a"}},
    ):
        assert len(replace(good, **change).problems()) == 1, change
