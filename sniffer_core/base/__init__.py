"""What every part of the core uses: memory and counters."""
