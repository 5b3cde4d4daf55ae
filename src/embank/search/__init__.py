"""The read path: dense and lexical candidates, fused by their scores."""
