"""A bank for assistants that speak the Model Context Protocol: they search and read, and change nothing."""
