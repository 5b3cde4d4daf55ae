"""Contract suites that every backend passes, and fakes for fast tests; shipped for third parties.

`models.ModelContract` checks values, not signatures. `fakes.HashModel` is a small deterministic model without weights.
"""
