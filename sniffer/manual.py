"""The words around the options, in `tcp-sniffer --help` and docs/CONFIGURATION.md."""

from typing import Final

DESCRIPTION: Final = """\
Captures HTTP between other programs, passively, and writes each request and response as one JSON object.
"""
EPILOG: Final = """\
examples:
  tcp-sniffer -p 8080                             at a terminal: one readable line for each exchange
  tcp-sniffer doctor -p 8080                      what stops one from seeing traffic
  tcp-sniffer -p 8080 -i eth0 --stdout
  tcp-sniffer -p 8080 --ui                        a page for a browser; its address is in the log
  tcp-sniffer -p 80,8080 capture.pcap --stdout | jq .path
  tcp-sniffer messages.jsonl.gz --ui              what was recorded, read back
  tcp-sniffer -p 8080 --output-url https://collector.example/messages

Each option can be given by the variable in brackets too; a flag beats its variable. Variables only:
{variables}
exit codes: 0 success or a clean stop, 1 wrong configuration, 2 everything else
"""

CONFIGURATION: Final = """\
# Configuration

Generated: `python -m sniffer.config > docs/CONFIGURATION.md`; a test keeps it so.

Each option is an environment variable, a flag of `tcp-sniffer` and a keyword of `SnifferConfig`. Flags beat
variables, variables beat defaults. All problems are reported at once, each with the option's name; the exit code is
1.

- **Values.** An empty variable counts as unset. Blanks around values and commas are ignored. A switch takes `1`,
  `true`, `yes`, `on` or `0`, `false`, `no`, `off`, in any case; as a flag it may stand alone (`--stdout`). Sizes are
  bytes; `Ki`, `Mi` and `Gi` may follow the number (`MEMORY_BUDGET=64Mi`). Only `MAX_BODY_SIZE`, `SAMPLE_RATE`,
  `KEEP_OTHERS`, `STATS_INTERVAL_MS`, `STOP_DELAY_MS` and `OUTPUT_STDOUT_MAX_LINE` take 0; for the last alone it
  means "no limit".
- **Outputs.** Without `--stdout`, `--output-url`, `--har` or `--ui` the daemon shows exchanges at a
  [terminal](TERMINAL.md#the-view), if there is one; otherwise the start fails. The library may run with a callback or
  an iterator alone.
- **Library.** It reads no variable but `TCP_SNIFFER_PRODUCTION` and `OUTPUT_URL_AUTH_TOKEN`, and those only where
  their keywords are not given. `SnifferConfig.from_env()` reads all of them.
- **Secrets.** The token and the key of `REDACT_KEY_FILE` are never shown. They have no flag, because command lines
  are public, and the key has no variable either.
- **Files.** An option that names a file takes a regular file; one with a token or a key may also be a pipe
  (`<(...)`). At most 64 KiB of a token or key are read, 16 MiB of certificates. A problem with a file names the
  option, not the path: the path may be the secret itself, put into the wrong variable.
- **Redaction** is described in [RECORD](RECORD.md#secrets). A list holds whole names, without values (`a=b`) and
  globs, and replaces the default. The word `none` (in the library an empty list) turns it off, with a warning at
  start.
- **Globs** of `EXCLUDE_PATHS` begin with `/`, `*`, `?` or `[`, except those for absolute URLs and `HOST:PORT`.
- **Expressions** of `WHERE` and `KEEP` are described in [FILTERS](FILTERS.md).
- **URLs.** `OUTPUT_URL` is an absolute http or https URL without user info. In production plain http is refused:
  `output_url must use HTTPS in production`.
- **Addresses.** `UI_ADDRESS` is an IP address and a port, or a port alone (on loopback): `127.0.0.1:8090`,
  `[::1]:8090`, `8090`. Port 0 takes a free one, never one of `PORTS`. Only the daemon serves the [live view](UI.md)
  and the metrics.
- **Memory.** `MEMORY_BUDGET` is one budget for everything that traffic can fill ([how it is divided, how much to
  give](deployment/DEPLOYMENT_GUIDE.md#memory)). The process's own buffers (a batch of packets, a decoder, records
  being written, 4 to 12 MiB by its outputs) have a quarter of the budget on top; if that is too little, the rest
  comes out of the budget. A budget that does not fit into the container's limit is lowered; one below 8 MiB is used
  as it is. Both are warned about.
"""
