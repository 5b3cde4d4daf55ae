"""The routes, one file a subject. Each hands the work to the bank, in a thread, and shapes the answer."""
