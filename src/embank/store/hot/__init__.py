"""The hot tier of a collection: what is read most, counted within bounds, and a small copy of it to answer from."""
