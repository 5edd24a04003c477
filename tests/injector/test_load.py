from __future__ import annotations

from tests.injector.load import CHANGES, run


async def test_rotation_under_load_without_a_failed_call() -> None:
    """Four keep-alive clients, five changes of the certificate and a bad pair: no call fails, p99 below 100 ms."""
    report = await run(6)
    assert report.failures == []
    assert len(report.latencies_ms) > 500
    assert report.percentile(0.99) < 100
    assert f'certificate_reloads_total{{result="replaced"}} {CHANGES}.0' in report.metrics
    assert 'certificate_reloads_total{result="refused"} 1.0' in report.metrics
    assert len(report.certificates) == CHANGES + 1
