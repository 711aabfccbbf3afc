"""One tree of settings: what it takes, and what it refuses by name."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from features.errors import InputError
from features.settings import MAX_MONTHS, Horizons, Settings, load, months, parse


def refused(raw: dict[str, Any]) -> str:
    with pytest.raises(InputError) as told:
        parse(raw, "clv.toml")
    words = str(told.value)
    assert words.startswith("clv.toml: ")
    assert "\n" not in words
    return words


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "clv.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_defaults_come_back_and_are_json():
    plain = Settings().as_dict()
    assert parse(plain) == parse(json.loads(json.dumps(plain))) == parse({}) == Settings()
    assert plain["horizons"] == {"months": [12, 18, 24]}
    assert load(None) == Settings()


def test_a_whole_file_comes_back(tmp_path):
    text = """
    [business]
    currency = "EUR"
    time_zone = "Europe/Berlin"
    margin = 0.4
    discount_rate = 0
    retention_cost = 2
    churn = "own_gap:2.5"
    [horizons]
    months = [24, 6, 12, 6]
    [orders]
    duplicates = "drop"
    complete_until = 2025-06-30
    date_order = "dmy"
    encoding = "latin-1"
    [customers]
    static = ["country", "plan"]
    [model]
    objective = "btyd"
    max_rows = 5000
    origins = 3
    thin_below = 0
    [columns.orders]
    customer_id = "Kunde"
    [tables]
    orders = "bestellungen.csv"
    """
    found = load(write(tmp_path, text))
    assert found.horizons.months == (6, 12, 24)
    assert found.orders.complete_until == date(2025, 6, 30)
    assert found.columns == {"orders": {"customer_id": "Kunde"}}
    assert found.business.churn == "own_gap:2.5"
    assert parse(json.loads(json.dumps(found.as_dict()))) == found
    # Editors on Windows put a byte order mark first.
    assert load(write(tmp_path, b"\xef\xbb\xbf" + text.encode())) == found


def test_every_section_refuses_an_unknown_key_by_name():
    sections = [f.name for f in fields(Settings) if is_dataclass(getattr(Settings(), f.name))]
    assert sections == [
        "business",
        "horizons",
        "orders",
        "customers",
        "model",
        "judgement",
        "segments",
        "serving",
    ]
    for name in sections:
        words = refused({name: {"colour": 1}})
        assert f"unknown key '{name}.colour'" in words
        known = [f.name for f in fields(getattr(Settings(), name))]
        assert words.endswith("Known here: " + ", ".join(known) + ".")
    words = refused({"busines": {"margin": 1}})
    assert "unknown key 'busines'" in words
    assert "business, horizons, orders" in words


BAD: list[tuple[str, str, Any]] = [
    *(("business", "margin", v) for v in (0, -0.1, 1.01, float("nan"), "much", "0.4", True, None)),
    *(("business", "discount_rate", v) for v in (-0.01, 1.5, float("nan"), "0.1", False)),
    *(("business", "retention_cost", v) for v in (-1, float("nan"), float("inf"), "2", True)),
    *(("business", "retention_cost_per_month", v) for v in (-1, "2", True)),
    *(("business", "discount_rate_by_segment", v) for v in (0.1, {"column": "country"},
      {"rates": {"DE": 0.1}}, {"column": "customer_id", "rates": {"1": 0.1}}, {"column": 5},
      {"column": "country", "rates": {"": 0.1}}, {"column": "country", "rates": 0.1},
      *({"column": "country", "rates": {"DE": r}} for r in (-0.1, 1.1, "0.1", True)))),
    *(("business", "currency", v) for v in ("eur", "EURO", "", "E1R", "EUR\n")),
    *(("business", "time_zone", v) for v in ("", "Mars/Base", "/etc/passwd", "../UTC", "a\0b")),
    *(("business", "churn", v) for v in ("", "gap:3", "own_gap", "own_gap:", "own_gap:-1",
      "own_gap:0", "own_gap:0.0", "own_gap:1e3", "own_gap:3 ", "no_order\n")),
    *(("horizons", "months", v) for v in ([], [0], [-1], [12, 25], [1.5], 12, "12", ["x"],
      ["12"], [True])),
    *(("orders", "duplicates", v) for v in ("maybe", 1)),
    *(("orders", "complete_until", v) for v in ("2024-02-30", "soon", 20250630, 0, True)),
    *(("orders", "date_order", v) for v in ("ymd", "")),
    *(("orders", "encoding", v) for v in ("utf8", "rot13")),
    *(("customers", "static", v) for v in ("country", [1])),
    *(("model", "objective", v) for v in ("magic", "")),
    *(("model", "max_rows", v) for v in (999, 1e9 + 0.5, "5000")),
    *(("model", "origins", v) for v in (0, 61, "12", True)),
    *(("model", "thin_below", v) for v in (-1, "few", "50", False)),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "value"), BAD)
def test_values_out_of_range_are_named(section, key, value):
    words = refused({section: {key: value}})
    assert f"'{section}.{key}" in words
    assert "Got " in words
    if not isinstance(value, list | dict):
        assert words.endswith(f"Got {value!r}.")


def test_a_whole_number_is_a_number_and_true_is_none(tmp_path):
    given = parse({"business": {"margin": 1, "discount_rate": 0, "retention_cost": 2}}).business
    assert (given.margin, given.discount_rate, given.retention_cost) == (1.0, 0.0, 2.0)
    with pytest.raises(InputError) as told:
        load(write(tmp_path, "[business]\nmargin = true"))
    assert str(told.value) == "clv.toml: 'business.margin' must be a valid number. Got True."


def test_the_cost_to_keep_has_two_names_and_one_value():
    for name in ("retention_cost", "retention_cost_per_month"):
        assert parse({"business": {name: 2}}).business.retention_cost == 2.0
    words = refused({"business": {"retention_cost": 2, "retention_cost_per_month": 2}})
    assert "takes retention_cost or retention_cost_per_month, not both" in words


def test_rates_by_segment_come_back(tmp_path):
    text = """
    [business.discount_rate_by_segment]
    column = "country"
    rates = { DE = 0.05, "New Zealand" = 0 }
    """
    found = load(write(tmp_path, text))
    by = found.business.discount_rate_by_segment
    assert (by.column, by.rates) == ("country", {"DE": 0.05, "New Zealand": 0.0})
    assert parse(json.loads(json.dumps(found.as_dict()))) == found
    words = refused({"business": {"discount_rate_by_segment": {"country": {"DE": 0.1}}}})
    assert words.endswith("Known here: column, rates.")


def test_sections_and_mappings_of_other_types():
    assert "'business'" in refused({"business": 3})
    assert "'columns.orders.amount'" in refused({"columns": {"orders": {"amount": 3}}})
    assert "'tables.orders'" in refused({"tables": {"orders": ["a.csv"]}})


@pytest.mark.parametrize("churn", ["no_order", "contract_end", "own_gap:3", "own_gap:0.5"])
def test_forms_of_churn(churn):
    assert parse({"business": {"churn": churn}}).business.churn == churn


def test_horizons_are_sorted_once_each():
    assert months((24, 1, 12, 1)) == (1, 12, 24)
    assert Horizons((18, 3)).months == (3, 18)
    assert months(tuple(range(1, MAX_MONTHS + 1)))[-1] == 24
    for wrong in ((0,), (25,), ()):
        with pytest.raises(ValueError, match="must"):
            months(wrong)


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Settings().business.margin = 0.5  # type: ignore[misc]


def test_files_that_are_none(tmp_path):
    for text, part in (
        ("[business\n", "line 1"),
        ("[business]\nmargin = 0.5\nmargin = 0.6\n", "line 3"),
        ("[business]\nmargin = ,5", "line 2"),
        (b"[business]\ncurrency = '\xff'", "utf-8"),
    ):
        with pytest.raises(InputError, match="must be TOML in UTF-8") as told:
            load(write(tmp_path, text))
        assert part in str(told.value)
        assert "clv.toml" in str(told.value)
        assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="must exist"):
        load(tmp_path / "none.toml")
    with pytest.raises(InputError, match="must be readable"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"clv\.toml: 'business\.margin'"):
        load(write(tmp_path, "[business]\nmargin = 2"))
