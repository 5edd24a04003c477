"""A program that uses the library under load: a callback that raises and blocks at times, a loop beside it.

Captures until standard input ends, then writes what happened as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

from sniffer import HttpMessage, create_sniffer

RAISES_EVERY = 97
BLOCKS_EVERY = 5000
BLOCKS_SECONDS = 0.5


async def main(ports: list[int], budget: int) -> None:
    """Captures on loopback."""
    calls: Counter[str] = Counter()

    def on_message(message: HttpMessage) -> None:
        calls["made"] += 1
        if calls["made"] % BLOCKS_EVERY == 0:
            time.sleep(BLOCKS_SECONDS)
        if calls["made"] % RAISES_EVERY == 0:
            calls["raised"] += 1
            raise RuntimeError(message.path)

    async def iterate() -> None:
        async for _ in sniffer:
            calls["iterated"] += 1

    sniffer = create_sniffer(ports=ports, interface="lo", on_http_message=on_message, memory_budget=budget)
    loop = asyncio.create_task(iterate())
    await asyncio.sleep(0)  # the loop's lane is there before the first message
    await sniffer.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    snapshot = await sniffer.stop()
    await loop
    result = {"calls": calls, "snapshot": snapshot, "undelivered": sniffer.undelivered}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main([int(port) for port in sys.argv[1].split(",")], int(sys.argv[2])))
