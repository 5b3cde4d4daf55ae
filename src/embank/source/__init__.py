"""Where documents come from: folders of text, HTML and PDF, JSON lines, Parquet, docstrings, the standard library.

A source streams documents in a fixed order and in constant memory, reports what it skipped and why, and never lets
one bad item end the whole. It doesn't cut text into passages, embed or store.
"""
