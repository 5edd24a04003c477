"""The MCP server in the daemon: standard input and output, and what answers between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sniffer.companion import Companion, Watched
from sniffer.exchanges import exchange_lane

if TYPE_CHECKING:
    from mcp.server import Server, ServerRequestContext
    from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

    from sniffer.budget import Budget
    from sniffer.delivery.lane import Lane
    from sniffer.outputs import Context
    from sniffer.outputs.mcp.store import AskedSink
    from sniffer.outputs.mcp.tools import Tools

CLOSING_SECONDS: Final = 1.0
"""At the end the answers under way have this long: a client that does not read holds nothing up."""
PIECE: Final = 1 << 16
STDIN: Final = 0
STDOUT: Final = 1

log = logging.getLogger("sniffer.mcp")


class Asked(Companion):
    """The server of one run. It ends the daemon when its client closes standard input."""

    keeps = True

    def __init__(self, *, ports: Sequence[int], live: bool) -> None:
        self.stays = not live
        self._ports = ports
        self._live = live
        self._sink: AskedSink | None = None
        self._task: asyncio.Task[None] | None = None
        self._relay: _Relay | None = None
        self._closing = False

    async def open(self, sniffer: Watched, budget: Budget) -> None:
        """Starts to answer."""
        from sniffer.outputs.mcp.store import AskedSink
        from sniffer.outputs.mcp.tools import Tools

        self._sink = AskedSink(max_bytes=budget.kept)
        tools = Tools(self._sink.kept, sniffer, ports={"ports": list(self._ports)}, live=self._live)
        self._task = asyncio.create_task(self._serve(tools))
        self._task.add_done_callback(self._ended)

    async def _serve(self, tools: Tools) -> None:
        from anyio import wrap_file
        from mcp.server.stdio import stdio_server

        server = server_of(tools)
        self._relay = relay = _Relay(STDIN)
        with (
            os.fdopen(relay.out, encoding="utf-8", errors="replace") as stdin,
            os.fdopen(os.dup(STDOUT), "w", encoding="utf-8") as stdout,
        ):
            async with stdio_server(wrap_file(stdin), wrap_file(stdout)) as (asked, answers):
                await server.run(asked, answers, server.create_initialization_options())

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the MCP server failed", extra={"fields": {"error": type(error).__name__}})
        if not self._closing:
            signal.raise_signal(signal.SIGTERM)  # the client has gone: nobody asks any more

    def lane(self, context: Context) -> Lane:
        """The lane of what can be asked for."""
        if self._sink is None:
            raise RuntimeError("lane before open")
        return exchange_lane(self._sink, share=context.share, live=context.live, dropped=context.dropped)

    async def close(self) -> None:
        """Lets the answers under way end, for a moment."""
        self._closing = True
        if self._task is None:
            return
        if self._relay is None:  # it had no time to begin
            self._task.cancel()
        else:
            self._relay.end()
        await asyncio.wait({self._task}, timeout=CLOSING_SECONDS)


def server_of(tools: Tools) -> Server[Any]:
    """The server, without its transport."""
    import msgspec
    from mcp import types
    from mcp.server import Server

    from sniffer import __version__
    from sniffer.outputs.mcp.tools import ToolError

    async def list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        only_reads = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
        return types.ListToolsResult(
            tools=[
                types.Tool(name=name, description=does, input_schema=schema, annotations=only_reads)
                for name, (does, schema) in tools.described().items()
            ]
        )

    async def call_tool(_: ServerRequestContext[Any], asked: CallToolRequestParams) -> CallToolResult:
        try:
            answer = tools.call(asked.name, asked.arguments)
        except ToolError as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)
        text = msgspec.json.encode(answer).decode()
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=answer)

    return Server(
        "tcp-sniffer",
        version=__version__,
        instructions="HTTP messages that were captured passively from the network. Nothing is ever sent or changed.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


class _Relay:
    """Copies a file into a pipe on a thread of its own, until the file ends or `end` is called.

    The package reads its input on a thread that nothing can interrupt. With the pipe in its place it sees the end as
    soon as this process wants it to.
    """

    def __init__(self, source: int) -> None:
        """`source`: a descriptor, which is read and stays open."""
        self.out, self._to = os.pipe()
        """The end to read from, which belongs to the caller."""
        self._woken, self._wake = os.pipe()
        self._source = source
        threading.Thread(target=self._copy, name="mcp-input", daemon=True).start()

    def end(self) -> None:
        """Ends the copy soon."""
        with contextlib.suppress(OSError):
            os.write(self._wake, b".")

    def _copy(self) -> None:
        waiting = select.poll()
        waiting.register(self._source, select.POLLIN)
        waiting.register(self._woken, select.POLLIN)
        with contextlib.suppress(OSError):  # nobody reads any more
            while self._woken not in (ready for ready, _ in waiting.poll()):
                piece = os.read(self._source, PIECE)
                if not piece:
                    break
                while piece:
                    piece = piece[os.write(self._to, piece) :]
        os.close(self._to)
