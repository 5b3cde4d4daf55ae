"""A collection as one file, out and in again: documents, passages and, when asked, vectors, byte for byte."""
