"""A bank, or a running server, behind the interfaces of other frameworks: one file, or one room, for each."""
