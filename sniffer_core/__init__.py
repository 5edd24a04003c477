"""The capture core: packets in, HTTP messages out. No I/O, no clock, no asyncio, no logging."""
