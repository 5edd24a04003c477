"""A HAR file of the exchanges."""
