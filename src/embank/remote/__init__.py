"""A bank that a running server holds, with the methods of an open one, and the surface that both have."""
