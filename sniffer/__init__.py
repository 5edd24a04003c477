"""Passive HTTP capture: packets in, paired and redacted HTTP messages out.

    from sniffer import create_sniffer

    async with create_sniffer(ports=[8080], interface="lo") as sniffer:
        async for message in sniffer:
            print(message.direction, message.method, message.path)

The names are loaded when they are first used: `python -m sniffer` runs this file before it can handle a signal.
"""

from importlib import import_module

TYPE_CHECKING = False  # without `typing`, which takes longer to import than all else before the signal handlers

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.errors import CaptureError, SnifferError, ValidationError
    from sniffer.pipeline import Sniffer, create_sniffer
    from sniffer.record.message import HttpMessage

    __version__: str

__all__ = [
    "CaptureError",
    "HttpMessage",
    "Sniffer",
    "SnifferConfig",
    "SnifferError",
    "ValidationError",
    "create_sniffer",
]

_HOMES = {
    "CaptureError": "errors",
    "HttpMessage": "record.message",
    "Sniffer": "pipeline",
    "SnifferConfig": "config",
    "SnifferError": "errors",
    "ValidationError": "errors",
    "create_sniffer": "pipeline",
}


def _version() -> str:
    """Of the installed distribution, or "unknown" in a tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("tcp-sniffer")
    except metadata.PackageNotFoundError:
        return "unknown"


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is not None:
        value: object = getattr(import_module(f"{__name__}.{home}"), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
