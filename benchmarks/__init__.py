"""Benchmarks measure; they never check. Each prints a table and, with --json, one JSON object as its last line."""
