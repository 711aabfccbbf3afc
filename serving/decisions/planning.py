"""From files to a plan: spend, sign-ups and predictions read, responses fitted, a budget split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.campaigns import spend
from features.errors import InputError
from features.money import Cashflow
from features.rules import minor_digits
from features.settings import Settings
from features.spine import instant
from features.store import Store
from serving.decisions import acquisition, budget, discounts, files, targets
from serving.decisions.budget import Plan, Response
from serving.decisions.discounts import WhatIf
from serving.decisions.known import OfStore

__all__ = ["bounds", "discounted", "responses_of", "split", "table"]


def bounds(texts: Sequence[str] | None, option: str) -> dict[str, float]:
    """``CHANNEL=MONEY`` as numbers by channel.

    Raises
    ------
    InputError
        Another form, or a channel twice.
    """
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, value = text.rpartition("=")
        try:
            money = float(value)
        except ValueError:
            money = -1.0
        if not name or money < 0 or name in found:
            raise InputError(
                f"{option} must be CHANNEL=MONEY, each channel once. Got {text!r}. Write it like "
                f"{option} affiliate=900."
            )
        found[name] = money
    return found


def responses_of(
    data: Any, store: Store, predictions: pd.DataFrame, settings: Settings, months: int
) -> tuple[list[Response], list[str]]:
    """Responses fitted on the spend history, and channels that tell none, with the reason.

    Raises
    ------
    InputError
        A table or column is missing, or no channel tells a response.
    """
    paid = spend(data, settings)
    until = min(instant(str(predictions["as_of"].iloc[0]), store.zone), store.coverage_end)
    people = acquisition.signups(store, until)
    worth = acquisition.values(store, people, predictions, months, until, settings.business.margin)
    history = acquisition.spending(paid, people, store, until)
    found, without = budget.fit(history, worth)
    if not found:
        raise InputError(
            "At least one channel must tell what its spend brings. Got none: "
            f"{'; '.join(without) or 'no month of spend lies within the sign-ups'}. Bring a longer "
            "history, or --responses FILE with channel, scale, elasticity."
        )
    return found, without


def split(
    data: Any,
    store: Store,
    predictions: pd.DataFrame,
    settings: Settings,
    money: float,
    *,
    responses: Path | None = None,
    horizon: int | None = None,
    minimum: dict[str, float],
    maximum: dict[str, float],
    accept_loss: bool = False,
) -> Plan:
    """A month's budget over channels, by responses of history or of the user's file.

    Raises
    ------
    InputError
        As `responses_of` and `budget.plan`.
    """
    months = _horizon(predictions, horizon)
    if responses is not None:
        found, without = budget.given(files.read(responses), responses.name), list[str]()
    else:
        found, without = responses_of(data, store, predictions, settings, months)
    unit = 10 ** minor_digits(settings.business.currency)
    made = budget.plan(found, money, minimum=minimum, maximum=maximum, unit=unit,
                       accept_loss=accept_loss)  # fmt: skip
    return replace(made, left_out=tuple(without))


def _horizon(predictions: pd.DataFrame, asked: int | None) -> int:
    if asked is not None:
        return files.horizon_of(predictions, asked)
    carried = [c for c in predictions if str(c).startswith("clv_") and str(c)[4:-1].isdigit()]
    return max(int(str(c)[4:-1]) for c in carried)


def discounted(
    store: Store,
    predictions: pd.DataFrame,
    settings: Settings,
    *,
    depth: float,
    months: int,
    segment: str | None,
    lift: float,
    horizon: int | None,
) -> WhatIf:
    """What a discount would cost; for everybody, a segment of the predictions, or COLUMN=VALUE.

    Raises
    ------
    InputError
        As `discounts.what_if`; the segment names a column that is nowhere.
    """
    member = np.ones(len(predictions), bool)
    if segment is not None:
        if "=" not in segment and "segment" not in predictions:
            raise InputError(
                "--segment NAME needs the column segment in the predictions. Got none. Write "
                "COLUMN=VALUE with a column of the table customers, such as country=DE."
            )
        rule = segment if "=" in segment else f"segment={segment}"
        known = OfStore(store, predictions["customer_id"], str(predictions["as_of"].iloc[0]))
        member = targets.matching(known, predictions, rule)
    return discounts.what_if(
        predictions, member, _flow(predictions[member], settings, months), depth=depth,
        months=months, horizon=_horizon(predictions, horizon), segment=segment or "everybody",
        lift=lift,
    )  # fmt: skip


def _flow(some: pd.DataFrame, settings: Settings, months: int) -> Cashflow:
    """How money is counted, at the margin that these customers' predictions carry."""
    flow, names = Cashflow.of(settings.business), (f"margin_{months}m", f"revenue_{months}m")
    if not {*names} <= {*some}:
        return flow
    earned, sold = (math.fsum(some[name]) for name in names)
    return replace(flow, margin=earned / sold) if sold > 0 else flow


def table(made: Plan | None, what: WhatIf | None) -> pd.DataFrame:
    """What is written: the plan's channels, else the what-if line by line."""
    if made is not None:
        return made.table()
    if what is None:
        return pd.DataFrame()
    rows = [
        {"what": name, "before": round(pair[0], 2), "after": round(pair[1], 2)}
        for name, pair in (
            (f"revenue of {what.months} months", what.revenue),
            (f"margin of {what.months} months", what.margin),
            (f"value of {what.horizon} months", what.value),
        )
    ]
    return pd.DataFrame(rows).assign(segment=what.segment, assumption=what.assumption)
