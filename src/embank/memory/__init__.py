"""The memory room: what is held, what may be held, and what gives way when it gets tight."""
