"""Nearest-neighbour indexes over a collection's vectors, behind one protocol."""
