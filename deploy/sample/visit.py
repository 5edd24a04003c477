"""Makes a few requests, and ends."""

import socket
import sys
import time
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

PATIENCE_S = 120


def wait_for(url: str) -> None:
    """Until somebody listens: all of the sample is applied at once, and a try that fails would leave a pod behind."""
    parts, end = urlsplit(url), time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((parts.hostname or "", parts.port or 80), timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def main(url: str, count: int) -> None:
    wait_for(url)
    for number in range(count):
        with urlopen(Request(f"{url}/visit/{number}", data=b"hello", method="POST"), timeout=10) as response:
            print(response.status, response.read().decode(), flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
