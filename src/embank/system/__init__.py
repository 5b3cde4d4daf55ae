"""The machine under the house: clock, files, SQLite, processes, logging."""
