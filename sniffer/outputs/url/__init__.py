"""The collector at `OUTPUT_URL`: messages are posted to it, and kept on disk until they are where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sniffer.checks import (
    MOST_CA_FILE,
    MOST_SECRET_FILE,
    File,
    check_directory,
    check_file,
    check_secret,
    check_secret_file,
    check_url,
)
from sniffer.errors import Problem
from sniffer.options import (
    LONGEST_MS,
    MaybeText,
    Option,
    OptionGroup,
    Secret,
    Switch,
    Whole,
    fill_in,
    read_small,
    switch,
    whole,
)
from sniffer.outputs import OUTPUT, Context, Output, Place

if TYPE_CHECKING:
    from sniffer.config import SnifferConfig
    from sniffer.delivery.lane import Lane
    from sniffer.delivery.sink import Sink


class UrlOptions(OptionGroup):
    """Options of the output URL and its spool."""

    # fmt: off
    output_url: MaybeText = Option(
        check_url, group=OUTPUT, metavar="URL",
        help="POST each message to this http or https URL; in production https only",
    )
    output_url_auth_token: Option[Secret | str | None, Secret | None] = Option(
        check_secret, group=OUTPUT, flag="", secret=True, ambient_without=("output_url_auth_token_file",),
        help="sent to OUTPUT_URL as `Authorization: Bearer ...`",
    )
    output_url_auth_token_file: File = Option(
        check_secret_file, group=OUTPUT, flag="", metavar="FILE",
        help="file that holds the token, in place of the variable",
    )
    output_timeout_ms: Whole = whole(
        10_000, 1, LONGEST_MS, unit="milliseconds", group=OUTPUT, help="time limit of each try to deliver",
    )
    output_concurrency: Whole = whole(
        8, 1, 1024, group=OUTPUT, help="deliveries at the same time; those of one connection stay in order",
    )
    output_batch_size: Whole = whole(
        1, 1, 100_000, group=OUTPUT, help="messages per POST; more than 1 sends `application/x-ndjson`",
    )
    output_batch_wait_ms: Whole = whole(
        200, 1, LONGEST_MS, unit="milliseconds", group=OUTPUT, help="longest wait for a batch to fill",
    )
    output_gzip: Switch = switch(False, group=OUTPUT, help="compress what is posted with gzip")
    output_ca_file: File = Option(
        check_file, group=OUTPUT, metavar="FILE", shown="the system's certificate authorities", is_read=True,
        help="certificate authorities (PEM) to trust for OUTPUT_URL",
    )
    spool_dir: File = Option(
        check_directory, group=OUTPUT, metavar="DIR", shown="off",
        help="keep what goes to OUTPUT_URL in this directory until it is delivered; bodies are kept as they are",
    )
    spool_size: Whole = whole(
        256 << 20, 1 << 20, 1 << 50, unit="bytes", group=OUTPUT, shown="256 MiB",
        help="size of the spool, all files together; when it is full, the oldest messages are dropped",
    )
    # fmt: on


class Url(Output):
    """Posts to a collector."""

    name = "url"
    options = UrlOptions
    switch = "output_url"
    does = "posts them"
    working = 2 << 20

    def rules(self, config: SnifferConfig) -> Iterable[Problem]:
        """Production posts by HTTPS; the files of the token and of the authorities can be used."""
        if config.production and config.output_url is not None and config.output_url.startswith("http:"):
            yield Problem("output_url", "output_url must use HTTPS in production")
        yield from self._read_token(config)
        yield from self._check_ca_file(config)

    def _read_token(self, config: SnifferConfig) -> Iterable[Problem]:
        file = config.output_url_auth_token_file
        if file is None:
            return
        name = "output_url_auth_token_file"
        if config.output_url_auth_token is not None:
            yield Problem(name, f"{name} and the token itself are both given")
            return
        try:
            token = check_secret(read_small(file, MOST_SECRET_FILE).decode("ascii"))
        except OSError as error:  # the path is not shown: what was given may be the token itself
            yield Problem(name, f"{name} cannot be read: {error.strerror}")
        except ValueError:
            yield Problem(name, f"{name} must hold a token of visible ASCII characters")
        else:
            fill_in(config, "output_url_auth_token", token)

    def _check_ca_file(self, config: SnifferConfig) -> Iterable[Problem]:
        if config.output_ca_file is None:
            return
        import ssl  # seldom needed

        try:
            read_small(config.output_ca_file, MOST_CA_FILE, pipe=False)  # OpenSSL would read it without an end
            ssl.create_default_context(cafile=config.output_ca_file)
        except OSError as error:  # SSLError is one
            reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            yield Problem("output_ca_file", f"output_ca_file cannot be used: {reason}")

    def warnings(self, config: SnifferConfig) -> Iterable[str]:
        """What can be read on the way, and a spool that nothing goes to."""
        if config.output_url_auth_token is not None and (config.output_url or "").startswith("http:"):
            yield "output_url is plain http: the token and the messages can be read on the way"
        if config.spool_dir is not None and config.output_url is None:
            yield "spool_dir is set and output_url is not: nothing is spooled"

    def load(self) -> None:
        """Imports the client, and with it TLS."""
        from sniffer.outputs.url import collector  # noqa: F401

    def posts_to(self, config: SnifferConfig) -> Sequence[Place]:
        """The collector: what another sniffer posts to it is left out."""
        if config.output_url is None:
            return ()
        from yarl import URL

        parts = URL(config.output_url)
        host = str(parts.host_subcomponent)
        return [Place(frozenset((host, f"{host}:{parts.port}")), parts.raw_path)]

    def lane(self, config: SnifferConfig, context: Context) -> Lane:
        """A lane with several deliveries at a time, in order within a connection; with a spool, a disk is in it."""
        from sniffer.delivery.lane import Lane
        from sniffer.delivery.queues import ByConnection
        from sniffer.delivery.retry import Retries

        sink = self._sink(config, context)
        workers, size = config.output_concurrency, config.output_batch_size
        wait = config.output_batch_wait_ms / 1000
        if config.spool_dir is None:
            return Lane(
                sink,
                share=context.share,
                queue=ByConnection(workers=workers, size=size, wait=wait),
                retries=Retries(),
            )
        from sniffer.delivery.spool import Spool  # seldom needed
        from sniffer.delivery.store import Store

        spool = Spool(
            Store(Path(config.spool_dir), config.spool_size),
            share=context.share,
            workers=workers,
            size=size,
            wait=wait,
            evict=context.live,
            holds=config.holds,
        )
        context.add_counters(spool.disk_counters)
        return Lane(sink, share=context.share, source=spool, retries=Retries(until_final=True))

    def _sink(self, config: SnifferConfig, context: Context) -> Sink:
        from uuid import uuid4

        from sniffer import __version__
        from sniffer.outputs.url.collector import UrlSink

        assert config.output_url is not None  # noqa: S101 - it is wanted
        token = config.output_url_auth_token
        return UrlSink(
            config.output_url,
            instance=uuid4().hex,
            token=token.reveal() if token is not None else None,
            timeout=config.output_timeout_ms / 1000,
            concurrency=config.output_concurrency,
            batches=config.output_batch_size > 1,
            gzip=config.output_gzip,
            ca_file=config.output_ca_file,
            user_agent=f"tcp-sniffer/{__version__}",
            on_socket=context.own_socket,
        )
