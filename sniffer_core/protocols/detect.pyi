"""What a connection carries, decided in one place: by its first bytes."""

def register(capsule: object) -> None:
    """Adds a protocol: a PyCapsule named "sniffer_core.Protocol" of a `Protocol` (protocol.pxd) that lives on.

    A connection is opened with it when its `recognise` knows the first bytes of either side. The protocol registered
    last is asked first. It counts for all tables of the process, for connections whose first payload comes later.
    ValueError: 16 are registered already, or the capsule is another.
    """

def unregister(capsule: object) -> None:
    """Takes a protocol out again; connections that it reads already are read on. ValueError: it is not registered."""
