"""What computes token ids into vectors: one file a runtime, and what each of them needs."""
