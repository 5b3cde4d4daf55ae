"""A bank, or a running server, behind the interfaces of other frameworks: one file each, imported by its name."""
