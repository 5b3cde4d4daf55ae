"""The service: a bank over HTTP, for people who speak OpenAI's embeddings, Prometheus, or plain JSON."""
