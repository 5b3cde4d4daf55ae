"""What was computed once and is kept while there is room: embeddings, byte-exact under a hard limit."""
