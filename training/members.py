"""What is learned on top of the anchor: a correction per customer, the same for every horizon.

Shallow boosted trees start from the anchor's forecast and give an additive term to the log of
value or to the logit of churn. Since the term does not depend on the horizon, the anchor's order
of horizons is kept: value never falls and churn never rises with a longer one.

A ridge regression as a second member was tried: normalised Gini up by .001 on one data set, down
by up to .008 and the total off by up to 25 points on seasonal ones. It earned no place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xgboost as xgb
from joblib import Parallel, delayed

from features.settings import Trees
from training.forest import Forest, sums
from training.integrals import FEW

__all__ = ["LARGEST_LEAF", "Booster", "Problem"]

Floats = npt.NDArray[np.float64]
Kind = Literal["value", "churn"]
ROUNDS: Final = 500
PATIENCE: Final = 30
#: The final fit has a quarter more rows than the one that found the number of rounds.
STRETCH: Final = 1.1
#: From so many rows on a round has `LEAST_PARALLEL` trees, for each costs time.
ENOUGH_ROWS: Final = 150_000
LEAST_PARALLEL: Final = 2
#: Leaves add up on the scale of a log or a logit: beyond it a tree was tampered with.
LARGEST_LEAF: Final = 10.0


@dataclass(frozen=True)
class Problem:
    """What a member is fitted to; (rows,) each, X is (rows, columns).

    ``margin`` is the anchor's log value (in units of ``target``) or logit of churn.
    """

    kind: Kind
    X: Floats
    target: Floats
    margin: Floats
    weight: Floats
    fold: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Booster:
    """Boosted trees, kept as the bytes of xgboost's own file format."""

    raw: bytes

    @classmethod
    def fit_each(
        cls, problems: Sequence[Problem], seed: int, trees: Trees | None = None
    ) -> list[Booster]:
        """`fit` of several problems side by side, with the same bytes.

        Two fits on half of the processors each wait less than one after the other on all of them.
        """
        threads = max(1, (os.cpu_count() or 1) // 2)
        fitted = Parallel(n_jobs=2, prefer="threads")(
            delayed(cls.fit)(problem, seed, trees, threads) for problem in problems
        )
        return list(fitted)

    @classmethod
    def fit(
        cls, problem: Problem, seed: int, trees: Trees | None = None, threads: int = 0
    ) -> Booster:
        """Fit with early stopping on a fifth of the customers, then again on all.

        `threads` changes no bit; 0 is as many as there are processors.
        """
        trees = trees or Trees()
        params = _params(problem.kind, trees) | {
            "seed": seed, "nthread": threads, "num_parallel_tree": _parallel(trees, len(problem.X)),
        }  # fmt: skip
        X = _narrow(problem.X)

        def matrix(which: npt.NDArray[np.bool_]) -> Any:
            return xgb.DMatrix(
                X[which], problem.target[which], weight=problem.weight[which],
                base_margin=problem.margin[which], nthread=threads or None,
            )  # fmt: skip

        held = problem.fold == 0
        rounds = PATIENCE
        if held.any() and not held.all():
            watched = xgb.train(
                params, matrix(~held), ROUNDS, evals=[(matrix(held), "held")],
                early_stopping_rounds=PATIENCE, verbose_eval=False,
            )  # fmt: skip
            rounds = max(3, int(STRETCH * (watched.best_iteration + 1)))
        model = xgb.train(params, matrix(np.ones(len(X), bool)), rounds, verbose_eval=False)
        return cls(bytes(model.save_raw("ubj")))

    def correction(self, X: Floats) -> Floats:
        """The trees' sum for each row, (rows,)."""
        return self.leaves(_narrow(X))

    def leaves(self, narrow: npt.NDArray[np.float32]) -> Floats:
        """The same of rows as trees read them."""
        if len(narrow) <= FEW:
            known = _forest(self.raw)
            if known is not None:
                return np.asarray(sums(known, narrow), np.float64)
        return np.asarray(self._model.inplace_predict(narrow, predict_type="margin"), np.float64)

    def contributions(self, X: Floats) -> Floats:
        """What each column adds to `correction`, (rows, columns): its Shapley value, exactly.

        Lundberg et al. (2020), From local explanations to global understanding with explainable AI
        for trees, Nature Machine Intelligence 2. The rest of the correction is the mean over the
        rows learned from, the same for everybody, and rounding to 32 bits.
        """
        matrix = xgb.DMatrix(_narrow(X), nthread=1)
        found = _loaded(self.raw, 1).predict(matrix, pred_contribs=True)
        return np.asarray(found[:, :-1], np.float64)

    @property
    def sane(self) -> bool:
        """Whether every leaf of every tree is of a size that learning gives."""
        leaves = re.findall(r"leaf=([^\s,]+)", " ".join(self._model.get_dump()))
        # Written so that "not a number" is not sane.
        return all(abs(float(leaf)) <= LARGEST_LEAF for leaf in leaves)

    @property
    def _model(self) -> Any:
        return _loaded(self.raw)


@lru_cache(maxsize=16)
def _forest(raw: bytes) -> Forest | None:
    """The trees of verified bytes as arrays; None where xgboost adds them up otherwise.

    A call of the library costs hundreds of microseconds before its first tree.
    """
    model = _loaded(raw)
    learner = json.loads(bytes(model.save_raw("json")))["learner"]
    trees = learner["gradient_booster"]["model"]["trees"]
    sizes = [len(tree["left_children"]) for tree in trees]

    def joined(name: str, kind: Any) -> Any:
        return np.concatenate([np.asarray(tree[name], kind) for tree in trees])

    left = joined("left_children", np.int32)
    forest = Forest(
        np.cumsum([0, *sizes[:-1]]).astype(np.int64), left, joined("right_children", np.int32),
        np.where(left < 0, -1, joined("split_indices", np.int32)).astype(np.int32),
        joined("split_conditions", np.float32), joined("default_left", np.bool_), np.float32(0.0),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    tried = rng.normal(0.0, 50.0, (FEW, int(learner["learner_model_param"]["num_feature"])))
    tried[rng.random(tried.shape) < 0.1] = np.nan
    narrow = _narrow(tried)
    expected = model.inplace_predict(narrow, predict_type="margin")
    return forest if np.array_equal(sums(forest, narrow), expected) else None


def _narrow(X: Floats) -> npt.NDArray[np.float32]:
    """As trees read it; what is beyond 32 bits stays the largest number, infinity is refused."""
    largest = np.finfo(np.float32).max
    return np.clip(X, -largest, largest).astype(np.float32)


def _parallel(trees: Trees, rows: int) -> int:
    """Trees of a round, whose mean is its step: the fewer the rows, the more chance they average.

    On simulated shops of 5,000 customers (some 31,000 rows) four instead of one brought the mean
    distance to the known expectation from 11.6 to 10.5 %, two brought 11.4 %.
    """
    return min(trees.parallel, max(LEAST_PARALLEL, ENOUGH_ROWS // rows))


def _params(kind: Kind, trees: Trees) -> dict[str, Any]:
    """What xgboost is told."""
    found: dict[str, Any] = {
        "tree_method": "hist", "eta": trees.eta, "max_depth": trees.max_depth,
        "min_child_weight": trees.min_child_weight, "subsample": trees.subsample,
        "colsample_bytree": trees.colsample, "reg_lambda": trees.reg_lambda, "verbosity": 0,
    }  # fmt: skip
    if kind == "churn":
        return found | {"objective": "binary:logistic", "base_score": 0.5}
    return found | {
        "objective": "reg:tweedie", "tweedie_variance_power": trees.power, "base_score": 1.0,
    }  # fmt: skip


_LOADED: dict[tuple[bytes, int], Any] = {}


def _loaded(raw: bytes, threads: int = 0) -> Any:
    """The parsed trees of verified bytes; parsing takes milliseconds, so it happens once.

    Buckets are worked on side by side: long work on one of them keeps to one thread. 0 is as many
    as there are processors.
    """
    if (raw, threads) not in _LOADED:
        if len(_LOADED) > 16:
            _LOADED.clear()
        _LOADED[raw, threads] = xgb.Booster({"nthread": threads}, model_file=bytearray(raw))
    return _LOADED[raw, threads]
