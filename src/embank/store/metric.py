"""How alike two vectors are: the metrics that a collection can have, and the scores that each gives. Higher is better.

    cosine   the cosine of the angle between them, -1 to 1; vectors are made to have length 1 before they are stored
    dot      their inner product, of the vectors as they were given
    l2       minus the square of the distance between them: 0 for equal vectors, and the lower the farther apart

For vectors of length 1 the three rank alike: dot is the cosine, and l2 is 2 * cosine - 2.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt

from embank.errors import InvalidInput
from embank.store.info import Metric as Metric  # noqa: PLC0414 -- told there, where nothing heavy is imported

Float32 = npt.NDArray[np.float32]

METRICS: dict[str, Metric] = {metric: metric for metric in get_args(Metric)}

MOST_LENGTH = 1e18
"""Of a vector: sums of squares of two of them stay far within float32."""


def checked(name: object) -> Metric:
    """The metric of that name; `InvalidInput` where there is none."""
    found = METRICS.get(str(name))
    if found is None:
        raise InvalidInput(f"a metric is one of {', '.join(METRICS)}, not {name!r}", metric=name)
    return found


def scores(metric: Metric, vectors: Float32, query: Float32) -> Float32:
    """The score of each row, float32, shape (n,); `query` has shape (dimension,)."""
    if metric == "l2":
        # Not from lengths and inner products: where both are long, their difference would keep no digit.
        apart = vectors - query
        found: Float32 = -np.einsum("ij,ij->i", apart, apart)
    else:
        found = vectors @ query
    return found


def scores_of_each(metric: Metric, queries: Float32, vectors: Float32) -> Float32:
    """The scores of every row for every query, float32, shape (len(queries), len(vectors))."""
    if metric != "l2":
        found: Float32 = queries @ vectors.T
        return found
    # Seen from the middle of the queries, so that lengths and inner products keep the digits that tell them apart.
    middle = queries.mean(axis=0)
    asked, rows = queries - middle, vectors - middle
    lengths = np.einsum("ij,ij->i", asked, asked)[:, None] + np.einsum("ij,ij->i", rows, rows)
    return np.asarray(2 * (asked @ rows.T) - lengths, np.float32)


def prepared(metric: Metric, vectors: Float32) -> Float32:
    """Rows as they are stored and searched with, shape (n, dimension): for cosine of length 1.

    Raises `InvalidInput`, which names the first row that is bad: values that are not finite, for cosine only zeros, for
    the others more than can be reckoned with.
    """
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    nothing = metric == "cosine"
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] > MOST_LENGTH) | (nothing & (lengths[:, 0] == 0)))
    if len(bad):
        only = ", or only zeros" if nothing else ""
        raise InvalidInput(
            f"vectors[{bad[0]}] holds a value that is not finite{only}, or is longer than {MOST_LENGTH:g}",
            row=int(bad[0]),
        )
    return np.asarray(vectors / lengths if nothing else vectors, np.float32)
