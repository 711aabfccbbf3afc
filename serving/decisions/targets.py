"""Whom to contact: ranked by expected gain, excluded by rule, with a control group built in.

Without an uplift model the gain is an assumption about everybody: a contact keeps a share
`save_rate` of those about to leave (Neslin et al. 2006, Journal of Marketing Research 43). Only a
control group tells whether that holds, so every list holds one out: in layers of equal expected
gain, by a digest of campaign, seed and id, the same ones for the same list in any order.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from features.spine import DAY, instant
from serving.decisions.known import Known, by_level
from serving.decisions.rulebook import Condition
from training.intervals import Z, total

__all__ = [
    "MOST_CONTROL", "Chosen", "Gain", "choose", "consenting", "contacts_table", "divided",
    "excluded", "kept_gain", "matching", "numbers", "wanted",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
LAYERS: Final = 5
MOST_CONTROL: Final = 0.9  # share of a list that may be held out
GONE: Final = 0.9  # churn from which a customer counts as already gone
LEAST_STAY: Final = 1e-6
TRUE: Final = frozenset({"true", "1", "yes", "y", "t"})
FALSE: Final = frozenset({"false", "0", "no", "n", "f"})


class Gain(NamedTuple):
    """Expected gain of contacting each customer before its cost, (rows,), and what it rests on.

    ``sd`` is each customer's own standard deviation, ``common`` the relative one that all share;
    ``whole`` gives the standard deviation of the sum over some rows where these two do not say it.
    ``span`` is the time in which it is gained, ``what`` the gain in words.
    """

    value: Floats
    sd: Floats
    common: float
    basis: str
    span: str
    what: str = "expected gain"
    whole: Callable[[npt.NDArray[np.intp]], float] | None = None


def numbers(predictions: pd.DataFrame, column: str) -> Floats:
    """A column of the predictions, (rows,); zeros where they were made without it."""
    if column not in predictions:
        return np.zeros(len(predictions))
    return predictions[column].to_numpy(np.float64)


def kept_gain(predictions: pd.DataFrame, months: int, save_rate: float) -> Gain:
    """save_rate x churn x value of those who stay, in money of `months`; see the module.

    A single customer is kept or not: that chance is in ``sd``, beside the spread of the value.
    """
    churn, cost = (numbers(predictions, f"{n}_{months}m") for n in ("churn", "retention_cost"))
    value = np.maximum(numbers(predictions, f"clv_{months}m") + cost, 0.0)
    stay = np.maximum(1.0 - churn, LEAST_STAY)
    worth, chance = value / stay, save_rate * churn
    spread = numbers(predictions, f"clv_{months}m_sd")
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(value > 0, spread / value, 0.0)
    square = worth**2 * np.maximum((1 + relative**2) * stay, 1.0)  # mean square, given they stay
    common = float(numbers(predictions, f"clv_{months}m_common")[0])
    sd = np.sqrt(np.maximum(chance * square - (chance * worth) ** 2, 0.0))
    told = f"assumed: a contact keeps {save_rate:.0%} of those about to leave"
    return Gain(chance * worth, sd, common, told, f"{months} months")


@dataclass(frozen=True)
class Chosen:
    """A list: the table, and what became of the others.

    ``frame`` is sorted by rank: customer_id, rank, arm, layer, gain (expected, less cost), gain_sd,
    cost and what the predictions say. ``gain`` is that of the treated together with its 10 and 90 %
    points; ``left_out`` counts customers by the rule that excluded them, first rule first.
    """

    frame: pd.DataFrame
    gain: tuple[float, float, float]
    cost: float
    control_share: float
    left_out: dict[str, int]
    basis: str
    span: str
    what: str
    considered: int
    unprofitable: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def treated(self) -> pd.DataFrame:
        """Those to contact."""
        return self.frame[self.frame["arm"] == "treatment"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; no customer's."""
        return {
            "considered": self.considered,
            "left_out": self.left_out,
            "unprofitable": self.unprofitable,
            "listed": len(self.frame),
            "treatment": len(self.treated),
            "control": len(self.frame) - len(self.treated),
            "control_share": self.control_share,
            "cost": round(self.cost, 2),
            "expected_gain": round(self.gain[0], 2),
            "expected_gain_low": round(self.gain[1], 2),
            "expected_gain_high": round(self.gain[2], 2),
            "basis": self.basis,
            "span": self.span,
            "what": self.what,
            "notes": list(self.notes),
        }


def choose(
    predictions: pd.DataFrame,
    gain: Gain,
    *,
    cost: float,
    top: int | None = None,
    budget: float | None = None,
    control: float = 0.1,
    out: Sequence[tuple[str, Flags]] = (),
    name: str = "",
    seed: int = 0,
) -> Chosen:
    """The `top` customers by expected gain, or as many as `budget` pays contacts for.

    Parameters
    ----------
    predictions : one row per customer; all columns come along.
    gain : of each row, before the cost.
    cost : money for one contact.
    top, budget : customers on the list, control included; or money for contacts. One of the two.
    control : share of the list that is held out by chance, 0.9 at most; 0 for none.
    out : rules by name, with a flag for whom each leaves out.
    name, seed : of the campaign; they and the id alone decide who is control.

    Raises
    ------
    InputError
        Neither or both of `top` and `budget`, numbers out of range, or nobody is left.
    """
    _require(top, budget, cost, control)
    free, left_out = np.ones(len(predictions), bool), {}
    for rule, flags in out:
        left_out[rule] = int((free & flags).sum())
        free &= ~flags
    net = gain.value - cost
    pays = free & (net > 0)
    unprofitable = int((free & ~pays).sum())
    most = int(pays.sum())
    if top is not None:
        most = min(top, most)
    elif budget is not None:
        most = _affordable(budget, cost, control, most)
    if most == 0:
        raise InputError(
            f"Somebody must be left to contact. Of {len(predictions):,} customers "
            f"{sum(left_out.values()):,} are excluded and {unprofitable:,} would bring less than "
            f"the {cost:,.2f} that a contact costs. Loosen --exclude, or lower --offer-cost."
        )
    rows = _best(predictions["customer_id"], net, np.flatnonzero(pays), most)
    layer = np.arange(most) * LAYERS // most + 1
    frame = _plain(predictions.iloc[rows].reset_index(drop=True))
    held = divided(frame["customer_id"].to_numpy(object), layer, control, f"{name}|{seed}")
    frame.insert(1, "rank", np.arange(1, most + 1))
    frame.insert(2, "arm", np.where(held, "control", "treatment").astype(object))
    frame.insert(3, "layer", layer)
    frame.insert(4, "gain", net[rows])
    frame.insert(5, "gain_sd", gain.sd[rows])
    frame.insert(6, "cost", np.where(held, 0.0, cost))
    paid = math.fsum(frame["cost"])
    value, low, high = (end - paid for end in _whole(gain, rows[~held]))
    whole = (value, low, high)
    return Chosen(frame, whole, paid, control, left_out, gain.basis, gain.span, gain.what,
                  len(predictions), unprofitable)  # fmt: skip


def _best(
    ids: pd.Series, net: Floats, rows: npt.NDArray[np.intp], most: int
) -> npt.NDArray[np.intp]:
    """The `most` of `rows` that gain most, falling; equal ones stand by their id."""
    if most < len(rows):
        # Whoever is equal to the last one may be it: of a million few are left to be sorted.
        edge = np.partition(net[rows], len(rows) - most)[len(rows) - most]
        rows = rows[net[rows] >= edge]
    names = ids.iloc[rows].to_numpy(object)
    return rows[np.lexsort((np.argsort(np.argsort(names)), -net[rows]))][:most]


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Text as objects, None where nothing is, in whatever form it was laid out."""
    for column in frame:
        if isinstance(frame[column].dtype, pd.CategoricalDtype | pd.ArrowDtype):
            text = frame[column].astype(object)
            frame[column] = text.where(text.notna(), None)
    return frame


def _whole(gain: Gain, rows: npt.NDArray[np.intp]) -> tuple[float, float, float]:
    """The gain of some rows together, with its 10 and 90 % points."""
    if gain.whole is None:
        return total(gain.value[rows], gain.sd[rows], gain.common)
    middle, reach = math.fsum(gain.value[rows]), Z * gain.whole(rows)
    return middle, middle - reach, middle + reach


def _require(top: int | None, budget: float | None, cost: float, control: float) -> None:
    if (top is None) == (budget is None):
        raise InputError(
            f"A list takes --top N or --budget B. Got {'both' if top else 'neither'}. Name one."
        )
    if not 0 <= cost < math.inf:
        raise InputError(f"--offer-cost must be money of at least 0. Got {cost}.")
    if not 0 <= control <= MOST_CONTROL:
        raise InputError(
            f"--control must be a share from 0 to {MOST_CONTROL}, since a list is there to contact "
            f"people. Got {control}. Take 0.1 to 0.5."
        )
    if top is not None and top < 1:
        raise InputError(f"--top must be 1 or more. Got {top}.")
    if budget is not None and not (0 < budget < math.inf and cost > 0):
        raise InputError(
            f"--budget needs money above 0 and an --offer-cost above 0. Got {budget} and {cost}. "
            "Without a cost every budget lasts for ever."
        )


def _affordable(budget: float, cost: float, control: float, most: int) -> int:
    """The longest list, of `most` at most, whose treated the budget pays, whoever is control."""
    paid = math.floor(min(budget / cost + 1e-9, most))
    listed = min(math.floor(paid / (1 - control)), most)
    # The control is rounded up or down by the offset: one more may be treated than its share.
    while listed and listed - math.floor(listed * control) > paid:
        listed -= 1
    return listed


def divided(
    ids: npt.NDArray[np.object_], layer: npt.NDArray[np.int64], share: float, salt: str
) -> Flags:
    """Whom chance holds out as control: `share` of every layer, to one customer, and of the whole.

    Systematic sampling down the layers, within which a digest of `salt` and id orders: everybody
    has the same chance, and row order has no say.
    """
    own = [hashlib.sha256(f"{salt}|{name}".encode()).digest() for name in ids]
    order = np.array(sorted(range(len(ids)), key=lambda i: (layer[i], own[i])), np.int64)
    start = int.from_bytes(hashlib.sha256(f"{salt}|offset".encode()).digest()[:6], "big") / 2**48
    steps = np.floor(np.arange(len(ids) + 1) * share + start)
    held = np.zeros(len(ids), bool)
    held[order] = np.diff(steps) > 0
    return held


def consenting(known: Known, channel: str, ids: Sequence[str] | None = None) -> Flags:
    """Who of all, or of `ids`, agreed to be contacted by `channel`; silence is no agreement.

    Raises
    ------
    InputError
        The table customers has no column of that consent, or it holds something else than yes and
        no.
    """
    column = f"consent_{channel}"

    def agreed(cells: npt.NDArray[np.object_]) -> Flags:
        words = ["" if pd.isna(cell) else str(cell).strip().lower() for cell in cells]
        strange = [word for word in words if word not in {*TRUE, *FALSE, ""}]
        if strange:
            raise InputError(
                f"customers, {column}: must be true or false. Got {strange[0][:40]!r}. Mend the "
                "column."
            )
        return np.array([word in TRUE for word in words], bool)

    return by_level(known.attributes([column], ids)[column], agreed)


def matching(known: Known, frame: pd.DataFrame, rule: str) -> Flags:
    """Where a column of the predictions or of the table customers has a value: ``COLUMN=VALUE``."""
    column, _, value = rule.partition("=")
    told = frame[column] if column in frame else known.attributes([column])[column]

    def same(cells: npt.NDArray[np.object_]) -> Flags:
        return np.array([("" if pd.isna(cell) else str(cell)) == value for cell in cells], bool)

    return by_level(told, same)


def wanted(conditions: Sequence[str], frame: pd.DataFrame, known: Known) -> list[tuple[str, Flags]]:
    """Whom each condition leaves out, by its text: those of whom it does not hold.

    A condition is one of `serving.decisions.rulebook`, such as ``churn_12m >= 0.3``; it names a
    column of the predictions, of the table customers, or a feature.

    Raises
    ------
    InputError
        A condition of another form, or about what nobody knows.
    """
    found = []
    for text in conditions:
        condition = Condition.parse(text, "--where")
        name = condition.column
        column: Any
        if name in frame:
            column = frame[name]
        elif name in known.names:
            column = known.attributes([name])[name]
        else:
            column = known.features([name])[name]
        found.append((f"not {text}", ~_holds(condition, column)))
    return found


def _holds(condition: Condition, column: Any) -> Flags:
    if getattr(column, "dtype", None) == np.float64:
        return condition.holds(np.asarray(column, np.float64))
    return by_level(column, condition.holds)


def excluded(
    rules: Sequence[str],
    predictions: pd.DataFrame,
    months: int,
    known: Known,
    channels: Sequence[str],
) -> list[tuple[str, Flags]]:
    """Whom each rule leaves out. Consent comes first, to all `channels` that are named.

    Rules: ``no-consent``, ``contacted:DAYS`` (in a campaign within so many days before the
    predictions or after them, as control too), ``churned`` or ``churned:CHANCE``, ``COLUMN=VALUE``.

    Raises
    ------
    InputError
        An unknown rule, or one whose table or column is missing.
    """
    found = [(f"no consent for {each}", ~consenting(known, each)) for each in channels]
    for rule in rules:
        if rule == "no-consent":
            if not channels:
                raise InputError(
                    "--exclude no-consent needs --channel, whose consent is meant, such as email."
                )
        elif match := re.fullmatch(r"contacted:(\d+)", rule):
            found.append((rule, _contacted(int(match[1]), predictions, known)))
        elif match := re.fullmatch(r"churned(?::(0?\.\d+|0|1(?:\.0*)?))?", rule):
            found.append((rule, _gone(predictions, months, match[1])))
        elif "=" in rule:
            found.append((rule, matching(known, predictions, rule)))
        else:
            raise InputError(
                "--exclude must be no-consent, contacted:DAYS, churned, churned:CHANCE or "
                f"COLUMN=VALUE. Got {rule!r}."
            )
    return found


def _contacted(days: int, predictions: pd.DataFrame, known: Known) -> Flags:
    now = instant(str(predictions["as_of"].iloc[0]), known.zone)
    # Who is held out of a running campaign must not be reached by another one either.
    return np.asarray(known.contacted() >= now - days * DAY)


def _gone(predictions: pd.DataFrame, months: int, chance: str | None) -> Flags:
    inactive = [c for c in predictions if str(c).startswith("inactive_")]
    if chance is None and inactive:
        return (predictions[inactive[0]] == 1).to_numpy(bool)
    return (predictions[f"churn_{months}m"] >= float(chance or GONE)).to_numpy(bool)


def contacts_table(
    chosen: Chosen, campaign: str, on: str, zone: str, value: str, channel: str | None, offer: str
) -> pd.DataFrame:
    """The list as rows of the table contacts, so that `clv measure` reads it back.

    ``predicted`` is the column `value` of the predictions, ``segment`` that of the predictions, or
    where they have none, the layer of the list.

    Raises
    ------
    InputError
        The campaign has no name, the list no control, or `on` is no date.
    """
    if not campaign.strip():
        raise InputError("--campaign must be a name that is no other campaign's. Got nothing.")
    if not chosen.control_share:
        raise InputError(
            "--contacts-out needs a control group, without which nothing can be measured. Got "
            "--control 0. Take --control 0.1."
        )
    instant(on, zone)
    frame = chosen.frame
    segment = pd.Series([f"layer {k}" for k in frame["layer"]], dtype=object)
    if "segment" in frame and frame["segment"].notna().all():
        segment = frame["segment"].astype(object)
    return pd.DataFrame(
        {
            "campaign_id": campaign,
            "customer_id": frame["customer_id"],
            "ts": on,
            "arm": frame["arm"],
            "offer": offer or None,
            "cost": frame["cost"],
            "channel": channel,
            "segment": segment,
            "predicted": frame[value],
            "control_share": chosen.control_share,
        }
    ).sort_values("customer_id", ignore_index=True)
