"""Where documents come from: folders of text, JSON lines, docstrings, the standard library's own documentation.

A source streams documents in a fixed order and in constant memory, reports what it skipped and why, and never lets
one bad item end the whole. It doesn't cut text into passages, embed or store.
"""
