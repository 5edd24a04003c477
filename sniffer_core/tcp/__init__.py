"""From segments to the ordered bytes of each direction."""
