"""The truth (documents and vectors, changed together) and the views derived from it."""
