"""Packets in: packet sources, the capture thread that reads them, and the hand-off to the event loop.

This is the only package that imports pcapy, and it does so only when a capture is opened.
"""
