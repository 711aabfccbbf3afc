"""Whom a contact changes: an uplift model out of past campaigns with a control group.

The uplift is learned in the form of Nie and Wager (2021, Biometrika 108; "R-learner"): the outcome
less what was to be expected of the customer, divided by the treatment less its chance, is a noisy
but unbiased sight of the uplift; boosted trees fit it with the weights that this form asks for.
Everything that judges the model comes from customers whom the judged trees had not seen: Qini
(Radcliffe 2007), AUUC (Gutierrez and Gerardy 2017), and the line of Chernozhukov, Demirer, Duflo
and Fernandez-Val (2018) whose slope says how much of the ranking is real. The uplift that is handed
out is the one on that line: with a slope of 0 everybody has the mean effect.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import behaviour
from features.behaviour import Counts
from features.catalogue import Catalogue, Vocabulary, catalogue, feature_hash
from features.errors import BundleError, InputError
from features.settings import Settings
from features.spine import Cutoffs, instant, text
from features.store import Bucket, Store
from serving.decisions.campaigns import Outcome, experiment
from serving.decisions.ranking import Said
from serving.decisions.targets import Gain
from training import bundle, registry
from training.golden import golden_rows, golden_values, require_same
from training.members import Booster
from training.samples import each_bucket

__all__ = [
    "Curve", "Uplift", "curve", "fit", "learn", "load", "of_campaign", "require_money",
    "said", "save", "uplifted",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
FOLDS: Final = 5
LEAST: Final = 200  # customers in each arm; fewer show no differences between customers
ROUNDS: Final = 60
PARAMS: Final = {
    "tree_method": "hist", "eta": 0.08, "max_depth": 2, "min_child_weight": 40.0, "subsample": 0.7,
    "colsample_bytree": 0.7, "reg_lambda": 20.0, "verbosity": 0, "nthread": 1, "base_score": 0.0,
    "objective": "reg:squarederror",
}  # fmt: skip
DAYS: Final = 31  # on so many days at most the contacts of a campaign lie


@dataclass(frozen=True)
class Curve:
    """How well a ranking puts the persuadable first; money (or orders) per customer.

    ``share`` and ``gained``: contacting the top share of the customers brings so much per customer
    of all. ``auuc`` is the mean of ``gained`` over the shares; ``qini`` is that less the mean of a
    random order, which brings the mean effect evenly: above 0 is better than chance.
    """

    share: tuple[float, ...]
    gained: tuple[float, ...]
    auuc: float
    qini: float


@dataclass(frozen=True)
class Uplift:
    """A fitted uplift model: trees, the words of its features, the line, and how it was judged.

    Calibrated uplift = ``line[0]`` + ``line[1]`` (trees - ``centre``), the slope held to 0 to 1;
    ``covariance`` is that of the line, (2, 2).
    """

    raw: bytes
    vocabulary: Vocabulary
    scale: float
    centre: float
    line: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]
    qini: float
    auuc: float
    effect: float
    customers: int
    campaign: str
    outcome: str
    days: int
    currency: str

    @property
    def slope(self) -> tuple[float, float, float]:
        """The line's slope with its 10 and 90 % points; 0 is a ranking that means nothing."""
        reach = 1.2816 * math.sqrt(self.covariance[1][1])
        return self.line[1], self.line[1] - reach, self.line[1] + reach

    @property
    def telling(self) -> bool:
        """Whether the data show that customers differ in what a contact changes."""
        return self.slope[1] > 0

    def raw_uplift(self, values: Floats) -> Floats:
        """What the trees say of feature rows, in the unit of the outcome."""
        return Booster(self.raw).correction(values) * self.scale

    def uplift(self, values: Floats) -> Floats:
        """Calibrated uplift per customer, (rows,)."""
        slope = min(max(self.line[1], 0.0), 1.0)
        return self.line[0] + slope * (self.raw_uplift(values) - self.centre)

    def as_dict(self) -> dict[str, Any]:
        """Plain values of what it is and how it was judged."""
        told = asdict(self) | {"slope": list(self.slope), "telling": self.telling}
        return {k: v for k, v in told.items() if k not in ("raw", "vocabulary", "covariance")}


def curve(uplift: Floats, outcome: Floats, treated: npt.NDArray[np.bool_]) -> Curve:
    """Gain over the share contacted, best first by `uplift`; (n,) each. Ties count as one step.

    At the top k: (mean of the treated - mean of the control) x k / n.
    """
    order = np.lexsort((outcome, treated, -uplift))
    t, y, u = treated[order].astype(np.float64), outcome[order], uplift[order]
    ends = np.flatnonzero(np.append(u[1:] != u[:-1], True))
    n_t, n_c = np.cumsum(t)[ends], np.cumsum(1 - t)[ends]
    s_t, s_c = np.cumsum(y * t)[ends], np.cumsum(y * (1 - t))[ends]
    share = (ends + 1) / len(u)
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = np.where((n_t > 0) & (n_c > 0), (s_t / n_t - s_c / n_c) * share, 0.0)
    share, gained = np.append(0.0, share), np.append(0.0, gained)
    auuc = float(np.trapezoid(gained, share))
    return Curve(tuple(share.tolist()), tuple(gained.tolist()), auuc, auuc - float(gained[-1]) / 2)


def fit(
    values: Floats, outcome: Floats, treated: npt.NDArray[np.bool_], fold: Ints, seed: int = 0
) -> tuple[bytes, float, Floats]:
    """Trees for the uplift, the outcome's scale, and out-of-fold uplifts, (n,).

    `values` (n, features); `fold` (n,) divides the customers, 0 to `FOLDS` - 1. Rows must come in
    an order of their own: the trees depend on it.
    """
    chance = float(treated.mean())
    scale = float(outcome.std()) or 1.0
    y, away = outcome / scale, treated - chance
    expected, found = np.zeros(len(y)), np.zeros(len(y))
    for k in range(FOLDS):
        here = fold == k
        level = float(y[~here].mean())
        raw = _trees(values[~here], y[~here] - level, np.ones(int((~here).sum())), seed)
        expected[here] = level + Booster(raw).correction(values[here])
    # Nie and Wager (2021), equation 4: squares of (y - m) - (w - e) tau.
    target = np.asarray((y - expected) / away, np.float64)
    weight = np.asarray(away**2, np.float64)
    for k in range(FOLDS):
        here = fold == k
        found[here] = _centred(values[~here], target[~here], weight[~here], values[here], seed)
    return _whole(values, target, weight, seed), scale, found * scale


def _centred(values: Floats, target: Floats, weight: Floats, ask: Floats, seed: int) -> Floats:
    level = float(np.average(target, weights=weight))
    return level + Booster(_trees(values, target - level, weight, seed)).correction(ask)


def _whole(values: Floats, target: Floats, weight: Floats, seed: int) -> bytes:
    # The level is the line's affair.
    return _trees(values, target - float(np.average(target, weights=weight)), weight, seed)


def _trees(values: Floats, target: Floats, weight: Floats, seed: int) -> bytes:
    import xgboost as xgb

    largest = np.finfo(np.float32).max
    narrow = np.clip(values, -largest, largest).astype(np.float32)
    matrix = xgb.DMatrix(narrow, target, weight=weight, nthread=1)
    model = xgb.train({**PARAMS, "seed": seed}, matrix, ROUNDS, verbose_eval=False)
    return bytes(model.save_raw("ubj"))


def line(
    uplift: Floats, outcome: Floats, treated: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Mean effect and slope on out-of-fold `uplift`, (2,), with their covariance, (2, 2).

    outcome = a + b uplift + (treated - chance) (effect + slope (uplift - mean)), by least squares;
    the covariance allows unequal spreads (White 1980).
    """
    centred = uplift - uplift.mean()
    away = treated - treated.mean()
    wanted = [0, 1] if centred.std() > 0 else [0]
    columns = np.column_stack([away, away * centred, np.ones(len(away)), centred])
    columns = columns if len(wanted) == 2 else columns[:, [0, 2]]
    inverse = np.linalg.pinv(columns.T @ columns)
    beta = inverse @ (columns.T @ outcome)
    rest = outcome - columns @ beta
    cover = inverse @ ((columns.T * rest**2) @ columns) @ inverse
    if len(wanted) == 2:
        return beta[:2], cover[:2, :2]
    return np.array([beta[0], 0.0]), np.array([[cover[0, 0], 0.0], [0.0, 0.0]])


def of_campaign(
    store: Store,
    contacts: pd.DataFrame,
    settings: Settings,
    *,
    campaign: str,
    days: int,
    outcome: Outcome,
    seed: int = 0,
) -> Uplift:
    """An uplift model of one campaign of the table contacts; see `learn`.

    Raises
    ------
    InputError
        As `learn` and `campaigns.experiment`.
    """
    business = settings.business
    made = experiment(store, contacts, days, outcome, business.margin)
    first = contacts.groupby("customer_id")["ts"].min()
    table = made.frame[["customer_id", "arm"]].assign(ts=made.frame["customer_id"].map(first))
    return learn(
        store, table, made.frame[outcome], campaign=campaign, kind=outcome, days=days,
        static=settings.customers.static, currency=business.currency, seed=seed,
    )  # fmt: skip


def learn(
    store: Store,
    contacts: pd.DataFrame,
    outcome: pd.Series[Any],
    *,
    campaign: str,
    kind: str,
    days: int,
    static: Sequence[str],
    currency: str,
    seed: int = 0,
) -> Uplift:
    """An uplift model of one campaign: features before each contact, what came after it.

    Parameters
    ----------
    contacts : customer_id, ts, arm; one row per customer.
    outcome : of the same rows, of `days` after the contact.
    static : attributes of customers that hold for all time.

    Raises
    ------
    InputError
        Contacts on too many days, or too few customers of an arm with an order before.
    """
    table = contacts.assign(outcome=outcome.to_numpy(np.float64))
    table = table.sort_values("customer_id", kind="stable", ignore_index=True)
    first = int(table["ts"].min())
    parts = each_bucket(store, lambda bucket: Counts.of(bucket, first, static), 1)
    vocabulary = behaviour.learn(parts)
    place, rows = _rows(store, table["customer_id"], table["ts"], catalogue(vocabulary))
    table = table.iloc[place].reset_index(drop=True)
    treated = (table["arm"] == "treatment").to_numpy(bool)
    counts = int(treated.sum()), int((~treated).sum())
    if min(counts) < LEAST:
        raise InputError(
            f"An uplift model needs {LEAST} customers with an order before the contact in each arm."
            f" Got {counts[0]} treated and {counts[1]} control. Take a larger campaign."
        )
    y = table["outcome"].to_numpy(np.float64)
    fold = np.array([zlib.crc32(i.encode()) for i in table["customer_id"]], np.int64) % FOLDS
    raw, scale, unseen = fit(rows, y, treated, fold, seed)
    beta, cover = line(unseen, y, treated)
    judged = curve(unseen, y, treated)
    made = Uplift(
        raw, vocabulary, scale, 0.0, (float(beta[0]), float(beta[1])),
        ((float(cover[0, 0]), float(cover[0, 1])), (float(cover[1, 0]), float(cover[1, 1]))),
        judged.qini, judged.auuc, float(y[treated].mean() - y[~treated].mean()), len(y), campaign,
        kind, days, currency,
    )  # fmt: skip
    return replace(made, centre=float(made.raw_uplift(rows).mean()))


def _rows(
    store: Store,
    ids: pd.Series[Any],
    ts: pd.Series[Any],
    words: Catalogue,
    turned: Callable[[Floats], Floats] = lambda values: values,
) -> tuple[Ints, Floats]:
    """Places among `ids` of those with an order before their contact, and their features.

    `turned` makes of each part's features what is wanted of them, so that nobody holds them all.
    """
    moments = sorted(set(ts.tolist()))
    if len(moments) > DAYS:
        # Seen is what came before the day of the contact: never more than before the contact.
        starts = {t: instant(text(t, store.zone)[:10], store.zone) for t in moments}
        ts = ts.map(starts)
        moments = sorted(set(starts.values()))
    if len(moments) > DAYS:
        raise InputError(
            f"The contacts of a campaign must lie on {DAYS} days or fewer. Got {len(moments)}. "
            "Give every wave a campaign_id of its own."
        )
    cutoffs = Cutoffs.at(moments, store.zone)
    index = pd.MultiIndex.from_arrays([ids.to_numpy(object), ts.to_numpy(np.int64)])

    def one(bucket: Bucket) -> tuple[Ints, Floats]:
        rows = behaviour.build(bucket, cutoffs, words)
        keys = pd.MultiIndex.from_arrays([rows.ids[rows.who], cutoffs.times[rows.cut]])
        at = index.get_indexer(keys)
        return at[at >= 0].astype(np.int64), turned(rows.values[at >= 0])

    parts = each_bucket(store, one, 1)
    place, values = np.concatenate([p for p, _ in parts]), np.concatenate([v for _, v in parts])
    order = np.argsort(place, kind="stable")
    return place[order], values[order]


def require_money(model: Uplift) -> Uplift:
    """The model, if it is of money.

    Raises
    ------
    InputError
        It is of something else.
    """
    if model.outcome != "margin":
        raise InputError(
            f"--uplift must be a model of margin, to be set against the cost of a contact. Got one "
            f"of {model.outcome}. Fit it by clv measure --outcome margin --fit-uplift FOLDER."
        )
    return model


def said(model: Uplift, predictions: pd.DataFrame, store: Store) -> Said:
    """What the model says of the customers of `predictions` at their moment.

    Raises
    ------
    InputError
        The model is not of money.
    """
    require_money(model)
    as_of = instant(str(predictions["as_of"].iloc[0]), store.zone)
    moments = pd.Series(np.full(len(predictions), as_of))

    def trees(values: Floats) -> Floats:
        return model.raw_uplift(values) if len(values) else np.zeros(0)

    words = catalogue(model.vocabulary)
    place, values = _rows(store, predictions["customer_id"], moments, words, trees)
    away = np.full(len(predictions), np.nan)
    away[place] = values - model.centre
    return Said(away, model.line, model.covariance, model.telling, model.campaign, model.days)


def uplifted(model: Uplift, predictions: pd.DataFrame, store: Store) -> tuple[pd.DataFrame, Gain]:
    """The predictions with a column uplift, and the gain it means: `said` and then `Said.ranked`.

    Raises
    ------
    InputError
        The model is not of money.
    """
    return said(model, predictions, store).ranked(predictions)


def save(model: Uplift, folder: Path) -> None:
    """Write the model as a sealed folder, like a model bundle; nothing is pickled.

    Raises
    ------
    InputError
        The folder holds something, or cannot be written.
    """
    words = catalogue(model.vocabulary)
    card = {
        **{k: v for k, v in asdict(model).items() if k not in ("raw", "vocabulary")},
        "kind_of_model": "uplift",
        "feature_hash": feature_hash(),
        "features": list(words.names),
        "vocabulary": model.vocabulary.as_dict(),
    }
    rows = golden_rows(words)
    golden = {"rows": rows.tolist(), "predictions": {"uplift": model.uplift(rows).tolist()}}
    parts = bundle.Parts(card, {"uplift.ubj": model.raw}, golden)
    bundle.save(parts, folder, bundle.make_key(registry.home()))


def load(folder: Path) -> Uplift:
    """Read a folder of `save`: digests first, then the golden rows.

    Raises
    ------
    BundleError
        The folder is not what `save` wrote, or is no uplift model.
    InputError
        The key is missing.
    """
    parts = bundle.verify(folder, bundle.key(registry.home()), feature_hash())
    card = parts.card
    if card.get("kind_of_model") != "uplift":
        raise BundleError(
            f"Model folder {folder}: it must hold an uplift model. Got another one. Name the "
            "folder that clv measure --fit-uplift wrote."
        )
    names = Uplift.__dataclass_fields__
    rest = {k: v for k, v in card.items() if k in names and k != "vocabulary"}
    rest["line"] = tuple(rest["line"])
    rest["covariance"] = tuple(tuple(row) for row in rest["covariance"])
    model = Uplift(
        raw=parts.files["uplift.ubj"], vocabulary=Vocabulary.from_dict(card["vocabulary"]), **rest
    )
    found = {"uplift": model.uplift(golden_values(parts.golden)).tolist()}
    require_same(found, parts.golden["predictions"])
    return model
