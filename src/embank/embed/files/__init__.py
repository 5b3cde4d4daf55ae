"""Model files: which there are and where, and getting, using, keeping and removing them."""
