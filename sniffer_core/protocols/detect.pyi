"""Decides by the first bytes of a connection which protocol it carries."""

def register(capsule: object) -> None:
    """Adds a protocol to all tables of the process, for connections whose first payload comes later.

    `capsule` is a PyCapsule named "sniffer_core.Protocol". It points to a `Protocol` (protocol.pxd), which must not be
    freed before unregister(). A connection is read by it if its `recognise` accepts the first bytes of either side. The
    protocol that was registered last is asked first.
    ValueError: 16 protocols are registered already, or the capsule has another name.
    """

def unregister(capsule: object) -> None:
    """Removes a protocol. Connections that it reads already are read on.

    ValueError: it is not registered, or the capsule has another name.
    """
