"""A model in a child process: the child, the parent that keeps it, and what passes between them."""
