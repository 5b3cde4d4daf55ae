"""Cutting a document's text into passages that a model can take in whole.

Knows nothing of models: the token counter of the model in use is handed in.
"""
