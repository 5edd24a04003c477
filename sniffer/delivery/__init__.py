"""Delivery: the way of each message to each output, whatever the output does with it."""
