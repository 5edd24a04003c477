"""What reads the bytes of a connection: a package or module for each protocol."""
