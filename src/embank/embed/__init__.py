"""From text to vectors: models behind one protocol, batched by padded tokens, loaded once."""
