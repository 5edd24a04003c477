"""The world fails around the daemon, and what it promised is looked at."""
