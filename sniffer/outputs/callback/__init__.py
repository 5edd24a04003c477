"""A function of the program around the library, called with each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sniffer.options import Option, OptionGroup
from sniffer.outputs import OUTPUT, Context, Output

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane
    from sniffer.record.message import HttpMessage


def check_callback(value: object) -> Callable[[HttpMessage], object] | None:
    """A function of one message; None is allowed."""
    if value is not None and not callable(value):
        raise ValueError("must be a function that takes one message")
    return value


class CallbackOptions(OptionGroup):
    """Options of the callback."""

    on_http_message: Option[Callable[[HttpMessage], object] | None, Callable[[HttpMessage], object] | None] = Option(
        check_callback,
        group=OUTPUT,
        variable="",
        flag="",
        metavar="FUNCTION",
        help="function, plain or async, called with each message (library only)",
    )


class Callback(Output):
    """A function, plain or async, that gets each message."""

    name = "callback"
    options = CallbackOptions
    switch = "on_http_message"
    working = 1 << 19
    renders_json = False
    counts = False

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """A lane that calls the function."""
        from sniffer.delivery.lane import Lane
        from sniffer.outputs.callback.sink import CallbackSink

        assert config.on_http_message is not None  # noqa: S101 - it is wanted
        return Lane(CallbackSink(config.on_http_message), share=context.share)
