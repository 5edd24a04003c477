"""A connection's identity; see connection.pxd."""

from sniffer_core.base.memory cimport pool_give


cdef void conn_free(Conn* conn) noexcept nogil:
    pool_give(conn.pool, conn.proxied, sizeof(Proxied))
    pool_give(conn.pool, conn, sizeof(Conn))


cdef void conn_release(Conn* conn) noexcept nogil:
    conn.references -= 1
    if conn.references:
        return
    conn.pool.bytes -= CONN_OBJECTS
    if conn.id != NULL:
        conn.next_dead = conn.dead[0]
        conn.dead[0] = conn
    else:
        conn_free(conn)
