"""`make links`: asks every outside address that the documents and the metadata name; needs the network."""

from __future__ import annotations

import asyncio
import re
import sys
import tomllib
from urllib.parse import urlsplit

import aiohttp

from tests.daemon import ROOT
from tests.docs.pages import PAGES

MADE_UP = re.compile(r"(^|\.)(example|invalid|localhost|test)(\.(com|org|net))?$|^[\d.]+$")
SECONDS = 20.0


def outside() -> dict[str, list[str]]:
    """Addresses with the places that name them; hosts that stand for anybody's are left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [(page.name, link) for page in PAGES for link in page.links()]
    named += [("pyproject.toml", url) for url in project["urls"].values()]
    found: dict[str, list[str]] = {}
    for place, link in named:
        parts = urlsplit(link)
        if parts.scheme in ("http", "https") and not MADE_UP.search(parts.hostname or ""):
            found.setdefault(link.partition("#")[0], []).append(place)
    return found


async def ask(session: aiohttp.ClientSession, url: str) -> str:
    """What is wrong with an address; empty when it answers."""
    try:
        async with session.get(url) as response:
            return "" if response.status < 400 else str(response.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


async def main() -> int:
    urls = outside()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        answers = await asyncio.gather(*(ask(session, url) for url in urls))
    broken = {url: answer for url, answer in zip(urls, answers, strict=True) if answer}
    for url, answer in broken.items():
        print(f"{answer}: {url} ({', '.join(sorted(set(urls[url])))})")
    print(f"{len(urls) - len(broken)} of {len(urls)} addresses answer")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
