"""Packets in: sources (an interface, files), the capture thread, and the hand-off to the event loop.

The only package that imports pcapy, and only when a capture opens.
"""
