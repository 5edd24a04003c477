"""The protocols that TCP connections carry: a package or module for each."""
