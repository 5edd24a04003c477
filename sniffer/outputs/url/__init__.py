"""The collector at `OUTPUT_URL`: messages are posted to it."""
