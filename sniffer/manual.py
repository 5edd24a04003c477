"""The words around the options, in `tcp-sniffer --help` and docs/CONFIGURATION.md."""

from typing import Final

DESCRIPTION: Final = """\
Captures HTTP/1.x between other programs, passively, and writes each request and response as one JSON object.
"""
EPILOG: Final = """\
examples:
  tcp-sniffer --ports 8080                             at a terminal: one readable line for each exchange
  tcp-sniffer doctor --ports 8080                      what stops one from seeing traffic
  tcp-sniffer --ports 8080 --interface eth0 --stdout
  tcp-sniffer --ports 8080 --ui                        a page for a browser; its address is in the log
  tcp-sniffer --ports 80,8080 --read capture.pcap --stdout | jq .path
  tcp-sniffer --ports 8080 --output-url https://collector.example/messages

Each option can be given by the variable in brackets too; a flag beats its variable. Variables only:
{variables}
exit codes: 0 success or a clean stop, 1 wrong configuration, 2 everything else
"""

CONFIGURATION: Final = """\
# Configuration

Generated: `python -m sniffer.config > docs/CONFIGURATION.md`; a test keeps it so.

Each option is an environment variable, a flag of `tcp-sniffer` and a keyword of `SnifferConfig`. Flags beat variables,
variables beat defaults. Every problem is reported at once, each with the option's name, and ends with exit code 1.

- An empty variable is the same as an unset one. Blanks around values and around commas are ignored.
- A switch takes `1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`, in any case, and refuses anything else. As a
  flag it may stand alone (`--stdout`).
- Sizes are bytes; `Ki`, `Mi` and `Gi` may follow the number (`MEMORY_BUDGET=64Mi`). Numbers must be finite. Only
  `MAX_BODY_SIZE`, `SAMPLE_RATE`, `STATS_INTERVAL_MS`, `STOP_DELAY_MS` and `OUTPUT_STDOUT_MAX_LINE` take 0;
  for the last alone it means "no limit".
- With no output named (`--stdout`, `--output-url`, `--har`, `--ui`) the daemon shows exchanges at a terminal
  ([TERMINAL](TERMINAL.md)). Anywhere else, in production and in a pod (`POD_NAME`, `NAMESPACE` or `NODE_NAME` is set)
  it does not start. The library may run with a callback or an iterator alone.
- The library reads no variable but `TCP_SNIFFER_PRODUCTION` and `OUTPUT_URL_AUTH_TOKEN`, and those only where their
  keywords are not given. `SnifferConfig.from_env()` reads them all.
- The token is never shown: in no log, no repr, no help, and it has no flag, because command lines are public.
- A file that an option names is a regular file, or, where it holds a token or a key, a pipe (`<(...)`). At most 64 KiB
  of those are read, 16 MiB of certificates. A problem with one names the option and not the path, which may be the
  secret itself, put into the wrong variable.
- Redaction is turned off only on purpose: by the word `none`, in the library by an empty list; that is warned about at
  start. An empty variable leaves the default. Names are whole names, without values (`a=b`) and globs; one that is
  there twice counts once. **Bodies are not redacted**; `MAX_BODY_SIZE=0` keeps none.
- With `REDACT_KEY_FILE` the marks of redacted values can be joined: see [RECORD](RECORD.md). The key has no variable
  and no flag of its own, and is never shown.
- The globs of `EXCLUDE_PATHS` begin with `/`, `*`, `?` or `[`, but for those of absolute URLs and `HOST:PORT`.
- `OUTPUT_URL` is an absolute http or https URL without user info. With `TCP_SNIFFER_PRODUCTION` on, plain http is
  refused: `output_url must use HTTPS in production`.
- `UI_ADDRESS` is an IP address and a port, or a port alone (on loopback): `127.0.0.1:8090`, `[::1]:8090`, `8090`.
  Port 0 is a free one; none of `PORTS` is taken. The [live view](UI.md) and the metrics are the daemon's: the library
  serves neither.
- `MEMORY_BUDGET` is one budget for everything that traffic can fill: half for reassembly, a quarter for the hand-off to
  the outputs, a quarter for their queues (and, with a live view, half of that for what it shows). What the process
  works with (a batch of packets, a decoder, records being written, 4 to 12 MiB by its outputs) has a quarter of the
  budget on top; where that is too little, the rest comes out of the budget. One that does not fit into the container's
  limit beside the process itself is lowered, one below 8 MiB is used as it is; both are warned about.
"""
