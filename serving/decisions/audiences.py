"""Files for advertising and mail platforms: their headers, their spelling, hashed where they ask.

Matching works on digests of text, so one capital letter or blank loses a customer. What is hashed
and how it is spelled follows the platforms' own pages (Google: "Customer Match data files" and
"formatting guidelines for hashed data"; Meta: "How to format a customer list" and the normalisation
of hashed customer information; Klaviyo: "CSV import"). Who did not consent is never in the frame
that comes here.
"""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.errors import InputError
from serving import writing
from serving.decisions.files import neutral

__all__ = [
    "CHANNEL", "FORMATS", "PERSON", "audience", "country", "digest", "email", "gmail", "phone",
    "write",
]  # fmt: skip

FORMATS: Final = ("google", "meta", "klaviyo")
#: The channel whose consent each platform needs.
CHANNEL: Final = {"google": "ads", "meta": "ads", "klaviyo": "email"}
PERSON: Final = ("email", "phone", "first_name", "last_name", "country", "zip", "city", "state",
                 "birth_year")  # fmt: skip
NEEDED: Final = ("email", "phone")  # one of them at least
GOOGLE: Final = ("Email", "Phone", "First Name", "Last Name", "Country", "Zip")
META: Final = ("email", "email", "email", "phone", "phone", "phone", "madid", "fn", "ln", "zip",
               "ct", "st", "country", "dob", "doby", "gen", "age", "uid", "value")  # fmt: skip
SHORTEST: Final = 8  # of a number with its plus sign and country code
ISO3: Final = {"deu": "DE", "fra": "FR", "aut": "AT", "che": "CH", "usa": "US", "gbr": "GB"}


def digest(text: str | None) -> str | None:
    """SHA-256 as lower-case hex, of UTF-8; nothing of nothing."""
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def email(text: str | None) -> str | None:
    """Trimmed and in lower case; None where it is no address."""
    plain = re.sub(r"\s", "", unicodedata.normalize("NFC", text or "")).lower()
    return plain if re.fullmatch(r"[^@]+@[^@]+\.[^@.]+", plain) else None


def gmail(text: str | None) -> str | None:
    """As `email`; in addresses of Gmail without dots, and without what follows a plus sign."""
    plain = email(text)
    if plain is None:
        return None
    name, _, domain = plain.partition("@")
    if domain in ("gmail.com", "googlemail.com"):
        name = name.split("+")[0].replace(".", "")
    return f"{name}@{domain}" if name else None


def phone(text: str | None, region: str | None) -> str | None:
    """E.164 such as +4930123456; without a country code that of `region`, else None."""
    import phonenumbers

    plain = re.sub(r"^\s*00", "+", text or "")
    try:
        found = phonenumbers.parse(plain, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(found):
        return None
    number = str(phonenumbers.format_number(found, phonenumbers.PhoneNumberFormat.E164))
    # A local short number is possible, and leads to nobody from elsewhere.
    return number if len(number) >= SHORTEST else None


def country(text: str | None) -> str | None:
    """The two capital letters of ISO 3166; None where it is something else."""
    plain = (text or "").strip()
    if re.fullmatch(r"[A-Za-z]{2}", plain):
        return plain.upper()
    return ISO3.get(plain.lower())


def _name(text: str | None) -> str | None:
    """Google's spelling of a name: lower case, no blanks before, after or doubled."""
    return " ".join(unicodedata.normalize("NFC", text or "").lower().split()) or None


def _letters(text: str | None) -> str | None:
    """Meta's spelling of a name: lower case, letters and blanks between them only."""
    plain = _name(text)
    kept = "".join(c for c in plain or "" if unicodedata.category(c)[0] in "LMN" or c == " ")
    return " ".join(kept.split()) or None


def _joined(text: str | None) -> str | None:
    """Meta's spelling of a place: as `_letters`, without blanks."""
    return (_letters(text) or "").replace(" ", "") or None


def _zip(text: str | None, region: str | None) -> str | None:
    plain = (text or "").strip().lower()
    # Meta asks for the first five digits in the United States, and no blanks or dashes elsewhere.
    plain = plain[:5] if region == "US" else re.sub(r"[\s-]", "", plain)
    return plain or None


def audience(people: pd.DataFrame, kind: str, value: str | None = None) -> pd.DataFrame:
    """The file of one platform, from one row per person in the columns of the table customers.

    `value` names a column of money that Meta and Klaviyo take. People without a mail address or
    telephone number that can be matched are left out; the rows keep their order.

    Raises
    ------
    InputError
        An unknown platform; neither email nor phone is there; nobody can be matched.
    """
    if kind not in FORMATS:
        raise InputError(f"--format must be csv, {', '.join(FORMATS)}. Got {kind!r}.")
    if not set(NEEDED) & set(people):
        raise InputError(
            f"--format {kind} needs email or phone in the table customers. Got neither. Add them "
            "to customers.csv beside the orders, or write --format csv."
        )
    rows = [
        {k: v if isinstance(v, str) else None for k, v in row.items() if k in PERSON}
        for row in people.to_dict("records")
    ]
    worth = people[value].tolist() if value else [None] * len(people)
    rest = [c for c in people if c not in PERSON]
    made: list[list[Any]] = [
        [*MAKERS[kind](row, money), *([row_of[c] for c in rest] if kind == "klaviyo" else [])]
        for row, money, row_of in zip(rows, worth, people.to_dict("records"), strict=True)
    ]
    header = {"google": GOOGLE, "meta": META, "klaviyo": (*KLAVIYO, *rest)}[kind]
    table = pd.DataFrame(made, columns=list(header), dtype=object)
    reach = {"google": [0, 1], "meta": [0, 3], "klaviyo": [0]}[kind]
    found = table[table.iloc[:, reach].notna().any(axis=1)].reset_index(drop=True)
    if found.empty:
        raise InputError(
            f"Somebody must have a mail address or telephone number that {kind} can match. Nobody "
            "has. Numbers need a country code or a country of two letters."
        )
    return found


def write(table: pd.DataFrame, out: Path) -> None:
    """Write a platform's CSV file: UTF-8, every header as it is, the old file kept until then.

    Raises
    ------
    InputError
        Another ending than .csv, or a place that cannot be written.
    """
    writing.require_writable(out, (".csv",))
    with (
        writing.replacing(out) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as f,
    ):
        lines = csv.writer(f, lineterminator="\n")
        lines.writerow(table.columns)
        for row in table.itertuples(index=False, name=None):
            lines.writerow(["" if pd.isna(cell) else cell for cell in row])


KLAVIYO: Final = ("Email", "First Name", "Last Name", "Country", "Zip")


def _google(row: dict[str, str | None], _value: float | None) -> list[Any]:
    region = country(row.get("country"))
    # Hashed are what names a person; country and postcode are asked for in plain.
    hashed = (
        gmail(row.get("email")), phone(row.get("phone"), region),
        _name(row.get("first_name")), _name(row.get("last_name")),
    )  # fmt: skip
    return [*map(digest, hashed), region, neutral((row.get("zip") or "").strip() or None)]


def _meta(row: dict[str, str | None], value: float | None) -> list[Any]:
    region = country(row.get("country"))
    number = phone(row.get("phone"), region)
    year = (row.get("birth_year") or "").strip()
    hashed = {
        0: email(row.get("email")), 3: number and number.removeprefix("+"),
        7: _letters(row.get("first_name")), 8: _letters(row.get("last_name")),
        9: _zip(row.get("zip"), region), 10: _joined(row.get("city")),
        11: _joined(row.get("state")), 12: region and region.lower(),
        14: year if re.fullmatch(r"(19|20)\d{2}", year) else None,
    }  # fmt: skip
    line: list[Any] = [digest(hashed.get(j)) for j in range(len(META))]
    line[-1] = None if value is None else max(round(float(value), 2), 0.0)  # plain, never below 0
    return line


def _klaviyo(row: dict[str, str | None], _value: float | None) -> list[Any]:
    plain = (row.get(key) for key in ("first_name", "last_name", "country", "zip"))
    address = email(row.get("email"))
    if neutral(address) != address:  # no mail to a formula
        address = None
    return [address, *(neutral((t or "").strip() or None) for t in plain)]


MAKERS: Final[dict[str, Callable[[dict[str, str | None], float | None], list[Any]]]] = {
    "google": _google,
    "meta": _meta,
    "klaviyo": _klaviyo,
}
