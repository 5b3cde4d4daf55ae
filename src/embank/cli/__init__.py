"""The command line: one file a command group, and `app.main`, where a process begins.

Commands are thin: they read flags, open a bank, call it, and show what came of it, as a table for people or as one JSON
document for programs. Which error ends in which exit code is told once, in `errors`.
"""
