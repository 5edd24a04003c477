"""The collector at `OUTPUT_URL`: messages are posted to it."""

from typing import Final

INSTANCE_HEADER: Final = "Tcp-Sniffer-Instance"
"""Names the sniffer that posts, so that another one can leave its deliveries out."""
