from __future__ import annotations

from dataclasses import replace

from tests.injector.load import CHANGES, Report, run


async def test_rotation_under_load_without_a_failed_call() -> None:
    """Four keep-alive clients, five changes and a bad pair: no call fails, p99 and memory stay within their limits."""
    report = await run(6)
    assert report.problems() == []
    assert len(report.latencies_ms) > 500


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
