"""Making a collection's vectors smaller, and telling beforehand what that does to the answers.

Covers fitting a PCA on the vectors that are there, applying it to them without embedding anything again, storing them
in fewer bytes, and measuring each way on the collection's own data. The arithmetic is in `embank.embed.reduce`, the
storage of fitted matrices in `embank.store.reductions`.
"""
