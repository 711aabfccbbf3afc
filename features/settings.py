"""The one tree of settings, frozen, read from ``clv.toml``. Units stand beside each field."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AliasChoices,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from features.errors import InputError

__all__ = [
    "Business",
    "Customers",
    "Horizons",
    "Judging",
    "ModelSettings",
    "Orders",
    "RateBySegment",
    "Segments",
    "Serving",
    "Settings",
    "Trees",
    "load",
    "written",
]

CONFIG = ConfigDict(extra="forbid", strict=False)
MAX_MONTHS = 24
# Strict: true is no margin and "0.4" no number, though Python would take both; 1 is a margin.
Number = Annotated[float, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Rate = Annotated[float, Field(strict=True, ge=0, le=1)]  # per year


@dataclass(frozen=True, config=CONFIG)
class RateBySegment:
    """Discount rates of some customers' own, by a column of the table customers."""

    column: str = ""  # such as country; none: one rate for everybody
    # level -> per year; all others, and who has no level, take [business] discount_rate
    rates: dict[str, Rate] = field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.column) != bool(self.rates):
            raise ValueError('takes column = "country" and rates = { DE = 0.08 }, both or neither')
        if self.column == "customer_id":
            raise ValueError("takes a column that many share, such as country, not customer_id")
        if "" in self.rates:
            raise ValueError("takes levels with a name; who has none takes discount_rate")
        return self


@dataclass(frozen=True, config=CONFIG)
class Business:
    """What money and time mean in this business."""

    currency: str = "USD"  # ISO 4217; amounts without a currency column are in it
    time_zone: str = "UTC"  # IANA name; naive times and local days belong to it
    # contribution margin as a share of revenue; where orders carry cost or margin_rate, these tell
    # what was earned and what will be, and the share is that of lines without either
    margin: Number = Field(default=1.0, gt=0, le=1)
    discount_rate: Rate = 0.10  # per year
    # money per customer and month; retention_cost_per_month is the same key, written out
    retention_cost: Number = Field(
        default=0.0, ge=0, allow_inf_nan=False,
        validation_alias=AliasChoices("retention_cost", "retention_cost_per_month"),
    )  # fmt: skip
    discount_rate_by_segment: RateBySegment = field(default_factory=RateBySegment)
    # no_order; own_gap:3 (silent for so many own mean gaps); contract_end, a column of customers:
    # a contract holds through its last day and is over from the local midnight after it
    churn: str = "no_order"

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, given: object) -> object:
        if isinstance(given, dict) and {"retention_cost", "retention_cost_per_month"} <= {*given}:
            raise ValueError("takes retention_cost or retention_cost_per_month, not both")
        return given

    @field_validator("currency")
    @classmethod
    def _currency(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Z]{3}", value):
            raise ValueError("must be three capital letters of ISO 4217, such as EUR")
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except Exception as error:
            raise ValueError("must be an IANA time zone, such as Europe/Berlin") from error
        return value

    @field_validator("churn")
    @classmethod
    def _churn(cls, value: str) -> str:
        if not re.fullmatch(r"no_order|contract_end|own_gap:\d+(\.\d+)?", value):
            raise ValueError('must be "no_order", "contract_end" or "own_gap:MULTIPLE"')
        if value.startswith("own_gap:") and not float(value[8:]):
            raise ValueError("must be own_gap with a multiple above 0, such as own_gap:3")
        return value


@dataclass(frozen=True, config=CONFIG)
class Horizons:
    """Which horizons the predictions carry."""

    months: tuple[Whole, ...] = (12, 18, 24)  # calendar months, 1 to 24

    @field_validator("months")
    @classmethod
    def _months(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return months(value)


@dataclass(frozen=True, config=CONFIG)
class Orders:
    """How order lines are read."""

    duplicates: Literal["keep", "drop"] = "keep"  # exact duplicate lines within one file
    complete_until: date | None = None  # last day the data cover; else the last order's day
    date_order: Literal["dmy", "mdy"] | None = None  # for dates such as 03/04/2025
    encoding: Literal["utf-8", "utf-16", "latin-1"] = "utf-8"  # of CSV files

    @field_validator("complete_until", mode="before")
    @classmethod
    def _complete_until(cls, value: object) -> object:
        # A number would be taken for seconds since 1970.
        if isinstance(value, int | float):
            raise ValueError("must be a date such as 2025-06-30")  # noqa: TRY004  pydantic wants it
        return value


@dataclass(frozen=True, config=CONFIG)
class Customers:
    """Which attributes of customers hold for all time and so may become features."""

    static: tuple[str, ...] = ("country", "birth_year", "acquisition_channel")


@dataclass(frozen=True, config=CONFIG)
class Trees:
    """How the boosted trees learn; `clv train --tune` searches these."""

    eta: Number = Field(default=0.1, gt=0, le=1)  # part of each tree that is taken over
    max_depth: Whole = Field(default=3, ge=1, le=12)
    min_child_weight: Number = Field(default=5.0, ge=0, allow_inf_nan=False)  # of a leaf's rows
    # Trees of a round at most, whose mean is its step; with many rows two are enough.
    parallel: Whole = Field(default=4, ge=1, le=16)
    subsample: Number = Field(default=0.5, gt=0, le=1)  # share of rows that a tree sees
    colsample: Number = Field(default=0.4, gt=0, le=1)  # share of features that a tree sees
    reg_lambda: Number = Field(default=20.0, ge=0, allow_inf_nan=False)  # pull of leaves to 0
    # Of value's variance over its mean, between Poisson (1) and gamma (2): many zeros, a long
    # right tail.
    power: Number = Field(default=1.5, gt=1, lt=2)


@dataclass(frozen=True, config=CONFIG)
class ModelSettings:
    """How the model is fitted."""

    # What boosting starts from: each customer's forecast (anchored), or the same for everybody
    # (plain); btyd is the forecast alone.
    objective: Literal["anchored", "plain", "btyd"] = "anchored"
    max_rows: Whole = Field(default=200_000, ge=1_000)  # training rows, over all origins
    origins: Whole = Field(default=12, ge=1, le=60)  # at most this many past cutoffs
    thin_below: Whole = Field(default=1_000, ge=0)  # customers; fewer lean on the anchor
    trees: Trees = field(default_factory=Trees)  # [model.trees]


@dataclass(frozen=True, config=CONFIG)
class Judging:
    """What a model must show, and the campaign that its churn is valued by."""

    metric: Literal["normalised_gini", "mae", "rmse", "spearman", "decile_mape"] = "normalised_gini"
    margin: Number = Field(default=0.02, ge=0, le=1)  # relative: so much worse in the others
    bias_band: Number = Field(default=0.25, gt=0, le=10)  # |predicted total / real total - 1|
    ece_band: Number = Field(default=0.05, gt=0, le=1)  # of churn
    contact_cost: Number = Field(default=1.0, ge=0)  # money per customer contacted
    save_rate: Number = Field(default=0.1, ge=0, le=1)  # of those about to leave who are kept


@dataclass(frozen=True, config=CONFIG)
class Segments:
    """Where the lines of the grid of value and churn run; found at training."""

    churn: Number = Field(default=0.5, gt=0, lt=1)  # chance from which a customer likely leaves
    valuable: Number = Field(default=0.25, gt=0, lt=1)  # share of the customers worth much
    # money of the first horizon, if they order again, from which a customer is worth much; not
    # given: as `valuable` says
    value: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, config=CONFIG)
class Serving:
    """Where the HTTP service listens and how much it bears; per worker where it counts things."""

    host: str = "127.0.0.1"  # address to listen on; any other than loopback needs tokens
    port: Whole = Field(default=8080, ge=0, le=65_535)  # 0: any free one
    workers: Whole = Field(default=1, ge=1, le=64)  # processes
    model: str = "champion"  # an alias, which is followed, a version number or a folder
    predictions: str = ""  # a file of clv predict, or latest, to look known customers up in
    data: str = ""  # orders and what lies beside them, which the pages at / show more of
    uplift: str = ""  # a folder of clv measure --fit-uplift, which lists may be ranked by
    hosts: tuple[str, ...] = ()  # names it answers to; none given: loopback names, or any
    tokens: Literal["auto", "always"] = "auto"  # auto: not asked for on loopback
    # 1,000 customers with 20 orders each, all fields given, are just below it.
    body_bytes: Whole = Field(default=5_000_000, ge=1_000, le=1_000_000_000)
    customers: Whole = Field(default=1_000, ge=1)  # in one request
    orders: Whole = Field(default=10_000, ge=1)  # of one customer
    lines: Whole = Field(default=100_000, ge=1)  # in one request
    queue: Whole = Field(default=16, ge=1)  # requests admitted at once; more are told to come back
    rate: Number = Field(default=0.0, ge=0)  # requests a second of one token or address; 0: any
    connections: Whole = Field(default=512, ge=8)  # open at once
    seconds: Number = Field(default=10.0, gt=0)  # for one answer
    receive_seconds: Number = Field(default=6.0, gt=0)  # for head and body to arrive
    idle_seconds: Number = Field(default=30.0, gt=0)  # that a connection may be silent
    drain_seconds: Number = Field(default=20.0, gt=0)  # for what was admitted, when told to stop
    follow_seconds: Number = Field(default=5.0, gt=0)  # between looks at the champion's alias


@dataclass(frozen=True, config=CONFIG)
class Settings:
    """Everything that can be set, with its default."""

    business: Business = field(default_factory=Business)
    horizons: Horizons = field(default_factory=Horizons)
    orders: Orders = field(default_factory=Orders)
    customers: Customers = field(default_factory=Customers)
    model: ModelSettings = field(default_factory=ModelSettings)
    judgement: Judging = field(default_factory=Judging)
    segments: Segments = field(default_factory=Segments)
    serving: Serving = field(default_factory=Serving)
    # table -> {contract's column: column in the file}
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    # table -> file, or table name in the database
    tables: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values that JSON takes, less those of the service.

        They are kept with a model, to which it does not matter where it is asked.
        """
        return dict(TypeAdapter(Settings).dump_python(self, mode="json", exclude={"serving"}))


def months(value: tuple[int, ...]) -> tuple[int, ...]:
    """Horizons sorted and without repeats; ``ValueError`` outside 1 to 24 calendar months."""
    for month in value:
        if not 1 <= month <= MAX_MONTHS:
            raise ValueError(f"must be 1 to {MAX_MONTHS} calendar months, got {month}")
    if not value:
        raise ValueError("must name at least one horizon, such as [12, 18, 24]")
    return tuple(sorted(set(value)))


def load(path: Path | None) -> Settings:
    """Settings from a ``clv.toml``; without a path the defaults.

    Raises
    ------
    InputError
        A file that is missing or no TOML, a key that is unknown, a value out of range.
    """
    return Settings() if path is None else parse(_toml(path), path.name)


def written(path: Path | None, table: str) -> set[str]:
    """The keys that a settings file itself gives in one table."""
    found = {} if path is None else _toml(path).get(table, {})
    return set(found) if isinstance(found, dict) else set()


def _toml(path: Path) -> dict[str, Any]:
    try:
        # Editors on Windows put a byte order mark first.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(
            f"The settings file must exist. Got {path}. Name it by --config."
        ) from None
    except OSError as error:
        raise InputError(
            f"The settings file must be readable. Got '{error.strerror}' for {path}. "
            "Name a file by --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} must be TOML in UTF-8: {error}. Mend that line.") from None


def parse(raw: dict[str, Any], name: str = "settings") -> Settings:
    """Settings from plain values (the parsed TOML, or the copy inside a model)."""
    try:
        return TypeAdapter(Settings).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = ", ".join(_known(first["loc"][:-1]))
            raise InputError(f"{name}: unknown key '{key}'. Known here: {known}.") from None
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise InputError(f"{name}: '{key}' {reason}. Got {first['input']!r}.") from None


def _known(path: tuple[int | str, ...]) -> list[str]:
    node: Any = asdict(Settings())
    for part in path:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return list(node)
