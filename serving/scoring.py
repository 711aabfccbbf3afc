"""How MLflow's own tools load a registered model: ``mlflow.pyfunc`` calls `_load_pyfunc`.

Our own serving never goes this way: it verifies the bundle and reads it itself. The input is a
frame of features, one column per entry of the dictionary, as the input example shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.behaviour import Rows
from features.settings import MAX_MONTHS
from serving.loader import load
from training.model import Model

__all__ = ["FeatureScorer"]


class FeatureScorer:
    """Predictions from ready feature rows."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, frame: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Predictions for 1, 12 and 24 months, one row per feature row."""
        names = list(self.model.catalogue.names)
        values = np.ascontiguousarray(frame[names].to_numpy(np.float64))
        n = len(values)
        rows = Rows(
            np.arange(n).astype(str).astype(object), np.arange(n), np.zeros(n, np.int64), values,
            self.model.catalogue,
        )  # fmt: skip
        found = self.model.predict(rows, self.model.trained_until, (1, 12, MAX_MONTHS))
        return pd.DataFrame(found.columns())


def _load_pyfunc(path: str) -> FeatureScorer:
    folder = Path(path)
    inner = folder / "bundle"
    return FeatureScorer(load(inner if inner.is_dir() else folder).model)
