"""A shop of made-up predictions for the lists of the desk: no model is trained for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost as xgb
from conftest import ODD_IDS

from features.catalogue import Vocabulary
from features.reading import find_settings, read
from features.spine import instant
from serving.decisions import customers, files, uplift
from serving.desk.prepared import Inputs, Prepared, place
from serving.desk.preparing import prepare

__all__ = [
    "AS_OF", "SETTINGS", "N", "featured", "inputs", "lifted", "predictions", "prepared", "write",
]  # fmt: skip

AS_OF, N = "2025-01-01", 400
SETTINGS = """[business]
currency = "EUR"
margin = 0.4
[orders]
complete_until = 2024-12-31
[judgement]
contact_cost = 0.5
"""
SEGMENTS = ("Keep close", "Win over", "Grow", "Let rest")
HOSTILE = ("<b>bold</b>", "=HYPERLINK(1)", "@SUM(1)", "-2+3", "+1", "\uff1d1", "| cmd")


def ids() -> list[str]:
    """Ids, those that programs like to change among them, sorted bytewise."""
    plain = [f"c{k:04d}" for k in range(N - len(ODD_IDS) - len(HOSTILE))]
    return sorted([*plain, *ODD_IDS, *HOSTILE])


def predictions() -> pd.DataFrame:
    """As ``clv predict`` writes them, a tenth of the people without an order."""
    rng = np.random.default_rng(0)
    churn = rng.beta(2, 1, N)
    worth = (1 - churn) * rng.gamma(2, 40, N)
    worth[50:60] = worth[50]  # equal ones stand by their id
    churn[50:60] = churn[50]
    cold = np.arange(N) % 10 == 3
    table: dict[str, object] = {
        "customer_id": ids(), "as_of": AS_OF,
        "evidence": np.where(cold, "cold_start", np.where(np.arange(N) % 7 == 0, "thin", "full")),
    }  # fmt: skip
    for h, part in ((3, 0.4), (12, 1.0)):
        money = worth * part
        table |= {
            f"revenue_{h}m": money * 2.5, f"orders_{h}m": money / 30, f"churn_{h}m": churn**part,
            f"margin_{h}m": money + 1.0, f"retention_cost_{h}m": 1.0, f"clv_{h}m": money,
            f"clv_{h}m_low": 0.0, f"clv_{h}m_median": money * 0.8, f"clv_{h}m_high": money * 2,
            f"clv_{h}m_sd": money * 0.7, f"clv_{h}m_common": 0.1,
        }  # fmt: skip
    segment = np.array(SEGMENTS, object)[np.arange(N) % 4]
    return pd.DataFrame(table).assign(
        next_order_on=np.where(np.arange(N) % 3 == 0, None, "2025-03-01"),
        segment=np.where(cold, "Prospect", segment),
        reasons='[{"feature": "x", "money": 1.5, "text": "=seldom | late"}]', model_version="7",
    )  # fmt: skip


def write(folder: Path) -> Path:
    """The predictions and the data in a folder; the folder of the data."""
    table, rng = predictions(), np.random.default_rng(1)
    data = folder / "data"
    data.mkdir(parents=True)
    names = table["customer_id"]
    k = np.arange(N)
    known = table["evidence"] != "cold_start"
    days = pd.Timestamp("2024-12-31") - pd.to_timedelta(rng.integers(1, 700, N), "D")
    orders = pd.concat([
        pd.DataFrame({"customer_id": names, "order_ts": days, "amount": 20.0 + k % 9}),
        pd.DataFrame({"customer_id": names, "order_ts": days - pd.Timedelta(days=40),
                      "amount": 15.0}),
    ])[np.tile(known, 2)]  # fmt: skip
    orders.to_parquet(data / "orders.parquet")
    pd.DataFrame({
        "customer_id": names, "country": np.where(k % 3 == 0, "AT", "DE"),
        "acquisition_channel": np.array(["ads", 'a "b"', "o'c"], object)[k % 3],
        "consent_email": np.where(k % 4 == 0, "no", np.where(k % 4 == 1, "", "yes")),
        "consent_ads": np.where(k % 2 == 0, "true", "false"),
        "email": [f"person.{i}@example.org" for i in k], "first_name": "=cmd|' /C calc'!A0",
        "acquired_at": "2022-01-01",
    }).to_parquet(data / "customers.parquet")  # fmt: skip
    moments = np.where(k[:100] < 50, "2024-12-20", "2024-07-01")
    pd.DataFrame({
        "campaign_id": np.where(k[:100] < 50, "winter", "summer"), "customer_id": names[:100],
        "ts": moments, "arm": np.where(k[:100] % 2 == 0, "treatment", "control"), "cost": 0.5,
    }).to_parquet(data / "contacts.parquet")  # fmt: skip
    (data / "clv.toml").write_text(SETTINGS)
    files.write(table.sample(frac=1, random_state=0), folder / "p.csv", shown=False)
    return data


def featured(folder: Path) -> npt.NDArray[np.float64]:
    """All features of the people of `write` at the moment of the predictions, (people, features).

    NaN of who has no order.
    """
    data = str(folder / "data")
    settings, names = find_settings(data, None), customers.feature_names()
    with read(data, settings) as (store, _):
        found = customers.features(store, ids(), instant(AS_OF, store.zone), names)
    return np.column_stack([found[name] for name in names])


def lifted(folder: Path, **other: object) -> Path:
    """An uplift model of a made-up campaign, sealed in the home; its folder."""
    rows = featured(folder)
    rows = rows[~np.isnan(rows).all(axis=1)]
    recent = rows[:, customers.feature_names().index("days_since_order")]
    matrix = xgb.DMatrix(rows.astype(np.float32), 3.0 * np.cos(recent / 90), nthread=1)
    told = {"base_score": 0.0, "nthread": 1, "max_depth": 4, "seed": 0}
    raw = bytes(xgb.train(told, matrix, 20).save_raw("ubj"))
    known: dict[str, object] = {
        "scale": 2.0, "centre": 0.25, "line": (1.5, 0.75),
        "covariance": ((0.04, 0.002), (0.002, 0.01)), "qini": 0.5, "auuc": 1.0, "effect": 1.4,
        "customers": 900, "campaign": "Autumn <b>", "outcome": "margin", "days": 30,
        "currency": "EUR",
    } | other  # fmt: skip
    out = folder / f"up-{len(list(folder.glob('up-*')))}"
    uplift.save(uplift.Uplift(raw, Vocabulary(), **known), out)  # type: ignore[arg-type]
    return out


def inputs(folder: Path, model: Path | None = None) -> Inputs:
    """What `write` wrote, and the folder of an uplift model."""
    return Inputs(folder / "p.csv", str(folder / "data"), uplift=model)


def prepared(folder: Path, model: Path | None = None) -> Prepared:
    """The same, worked out in the home of the environment."""
    found = inputs(folder, model)
    prepare(found, place() / found.key(), ())
    return Prepared(place() / found.key())
