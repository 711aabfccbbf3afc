"""Models beside each other: the leaderboard, paired differences, and tables as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training.metrics import CHURN_METRICS, COMPARED, VALUE_METRICS, N, churn_metrics, value_metrics
from training.scores import paired, verdict

__all__ = ["compare", "format_table", "leaderboard"]

Floats = npt.NDArray[np.float64]


def leaderboard(
    actual: npt.ArrayLike,
    predictions: Mapping[str, npt.ArrayLike],
    churned: npt.ArrayLike | None = None,
    probabilities: Mapping[str, npt.ArrayLike] | None = None,
) -> pd.DataFrame:
    """One row per model (index ``model``), in the order given; columns n and then the metrics.

    A model without churn probabilities has nan there, and one without values likewise.
    """
    value = {name: value_metrics(actual, p) for name, p in predictions.items()}
    churn = {}
    if churned is not None:
        churn = {name: churn_metrics(churned, p) for name, p in (probabilities or {}).items()}
    columns = [N, *VALUE_METRICS, *(CHURN_METRICS if churn else ())]
    models = list(dict.fromkeys([*value, *churn]))
    frame = pd.DataFrame(
        [{**churn.get(model, {}), **value.get(model, {})} for model in models],
        index=pd.Index(models, name="model", dtype=object),
        columns=columns,
        dtype=np.float64,
    )
    return frame.astype({N: np.int64})


def compare(
    actual: npt.ArrayLike,
    predictions: Mapping[str, npt.ArrayLike],
    ours: str,
    *,
    metrics: Sequence[str] = COMPARED,
    draws: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Our model against each other one, by paired bootstrap.

    For churn pass what churned as ``actual``, probabilities as ``predictions`` and names out of
    ``COMPARED_CHURN`` or ``CHURN_METRICS`` as ``metrics``.

    Returns
    -------
    DataFrame
        One row per metric and other model, in the order given: metric, model, ours, theirs (the
        metric on all rows), difference, low, high (ours less theirs), verdict (of ours).
    """
    if ours not in predictions:
        raise InputError(f"Our model must be among {', '.join(predictions)}. Got {ours!r}.")
    others = [name for name in predictions if name != ours]
    theirs = [predictions[name] for name in others]
    told = paired(actual, predictions[ours], theirs, metrics, draws=draws, seed=seed)
    found = [
        (metric, model, own, other, *gap, verdict(metric, gap))
        for i, metric in enumerate(metrics)
        for model, (own, other, gap) in zip(others, [each[i] for each in told], strict=True)
    ]
    names = ["metric", "model", "ours", "theirs", "difference", "low", "high", "verdict"]
    return pd.DataFrame(found, columns=names)


def format_table(frame: pd.DataFrame, width: int = 96) -> str:
    """The frame as text lines of at most ``width`` characters; numbers stand on the right.

    A named index is shown as the first column. Columns that do not fit go into further blocks,
    each of which repeats the first column. nan is shown as ``-``.
    """
    table = frame.reset_index() if frame.index.name else frame
    cells = [_cells(str(name), table[name]) for name in table.columns]
    if not cells:
        return ""
    key, rest = cells[0], cells[1:]
    blocks = [[key]]
    for cell in rest:
        if len(blocks[-1]) > 1 and sum(len(c[0]) + 2 for c in [*blocks[-1], cell]) - 2 > width:
            blocks.append([key])
        blocks[-1].append(cell)
    texts = ["\n".join("  ".join(line).rstrip() for line in zip(*b, strict=True)) for b in blocks]
    return "\n\n".join(texts)


def _cells(name: str, column: pd.Series) -> list[str]:
    """The head and the cells of one column, padded to one width."""
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    if numeric and not pd.api.types.is_bool_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64, na_value=math.nan)
        whole = pd.api.types.is_integer_dtype(column.dtype)
        digits = 0 if whole else _decimals(values)
        texts = ["-" if math.isnan(v) else f"{v:,.{digits}f}" for v in values]
    else:
        texts = [" ".join(str(v).split())[:40] for v in column]
    wide = max(len(text) for text in [name, *texts])
    return [text.rjust(wide) if numeric else text.ljust(wide) for text in [name, *texts]]


def _decimals(values: Floats) -> int:
    """As many decimals, up to four, as give a middling number of the column four digits."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    return 4 if middle < 1 else max(0, 3 - math.floor(math.log10(middle)))
