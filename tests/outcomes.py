"""What customers did and what two models said of it, for tests of the judging side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from training import metrics


def shop(n: int, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (many zeros, some refunds beyond sales) and two models, with many ties if asked."""
    random = np.random.default_rng(seed)
    actual = np.where(random.random(n) < 0.5, 0, random.gamma(0.6, 80, n)).round(2)
    actual[: n // 50] *= -0.1
    a = 0.4 * actual + random.gamma(0.7, 40, n)
    b = 0.2 * actual + random.gamma(0.7, 50, n)
    return (actual, a.round(-1), b.round(-1)) if ties else (actual, a, b)


def churn(n: int, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Churned or not and two models' probabilities, with many ties if asked."""
    random = np.random.default_rng(seed)
    a, b = random.random(n), random.random(n)
    churned = (random.random(n) < 0.2 + 0.5 * a + 0.2 * b).astype(float)
    churned[:2] = 0, 1
    return (churned, a.round(1), b.round(1)) if ties else (churned, a, b)


def literal(metric: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The metric of plain rows, by other software where there is any."""
    other = {
        "auroc": roc_auc_score,
        "average_precision": average_precision_score,
        "brier": brier_score_loss,
        "log_loss": log_loss,
        "spearman": lambda y, p: float(spearmanr(y, p).statistic),
        "abs_bias": lambda y, p: abs(float(p.sum() / y.sum()) - 1),
    }
    if metric in other:
        return other[metric]
    family = metrics.churn_metrics if metric in metrics.CHURN_METRICS else metrics.value_metrics
    return lambda y, p: family(y, p)[metric]
