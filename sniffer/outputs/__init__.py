"""The outputs: one folder or file each. None imports another."""
