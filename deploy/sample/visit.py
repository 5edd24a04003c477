"""Makes a few requests, and ends."""

import sys
import time
from urllib.request import Request, urlopen


def main(url: str, count: int) -> None:
    for number in range(count):
        with urlopen(Request(f"{url}/visit/{number}", data=b"hello", method="POST"), timeout=10) as response:
            print(response.status, response.read().decode(), flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
