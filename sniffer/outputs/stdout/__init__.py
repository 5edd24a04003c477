"""Standard output: one line of JSON for each message."""
