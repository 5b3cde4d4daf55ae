"""The routes, one file a subject. Each does little: it hands the work to the bank, in a thread, and shapes the answer."""
