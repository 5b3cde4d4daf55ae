"""A bank behind the interfaces of other frameworks: one file, or one room, for each."""
