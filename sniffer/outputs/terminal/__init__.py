"""The view for a person at a terminal."""
