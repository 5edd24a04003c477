"""Which messages are left out of every output, and under which counter."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sniffer.outputs import Place
    from sniffer_core.core import RawMessage

INSTANCE_HEADER: Final = "Tcp-Sniffer-Instance"
"""Names the sniffer that posts, so that another one can leave its deliveries out."""
CARRY: Final = ("user-agent", "host", INSTANCE_HEADER.lower())
"""Request fields that the filters look at, in the order of `RawMessage.carried`."""

Filter = Callable[["RawMessage"], str | None]
"""The counter under which a message is left out; None where it is not."""


def make_filter(
    *, exclude_paths: Sequence[str] = (), exclude_user_agents: Sequence[str] = (), places: Collection[Place] = ()
) -> Filter | None:
    """One filter of all; None where nothing can be left out.

    `exclude_paths` and `exclude_user_agents` are globs. What other sniffers post to `places` is left out.
    """
    paths, agents = _globs(exclude_paths), _globs(exclude_user_agents)
    if paths is None and agents is None and not places:
        return None

    def leaves_out(raw: RawMessage) -> str | None:
        target = raw.path
        if raw.carried is None or target is None:
            return None
        path = target if target.startswith("/") else _path_of(target)
        agent, host, instance = raw.carried
        if instance is not None and raw.method == "POST":
            posted_to, without_query = (host or "").lower(), path.partition("?")[0]
            if any(posted_to in place.hosts and without_query == place.path for place in places):
                return "messages_foreign"
        if paths is not None and (paths(path) or (path is not target and paths(target))):
            return "messages_excluded_path"
        if agents is not None and agent is not None and agents(agent):
            return "messages_excluded_user_agent"
        return None

    return leaves_out


def _path_of(target: str) -> str:
    """Path and query of a request target of any form (RFC 9112 section 3.2). An authority and `*` have no path, and are
    returned as they are.
    """
    absolute = re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*", target)
    if absolute is None:
        return target
    path = target[absolute.end() :]
    return path if path.startswith("/") else f"/{path}"


def _globs(globs: Sequence[str]) -> Callable[[str], bool] | None:
    """A function that tells whether a text matches one of the globs, with or without its query; None without globs."""
    if not globs:
        return None
    pattern = re.compile("|".join(map(translate, globs)))

    @lru_cache(maxsize=1024)
    def matches(text: str) -> bool:
        return pattern.match(text) is not None or pattern.match(text.partition("?")[0]) is not None

    return matches
