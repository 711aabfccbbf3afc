"""Audience files: headers, spelling and digests as the platforms ask, by test vectors."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pandas as pd
import pytest

from features.errors import InputError
from serving.decisions import audiences, files

PEOPLE = pd.DataFrame(
    {
        "email": [" Test@Example.COM ", "Jane.Doe+shop@Gmail.com", None, "no address", "=1@x.org"],
        "phone": ["(030) 1234-567", "0044 20 7031 3000", "+1 212-565-0000", "12", None],
        "first_name": ["  Zoë  Ann ", "JANE", "O'Neil-Smith", "", "=cmd()"],
        "last_name": ["Müller", "Doe Jr.", "Ng", None, "@x"],
        "country": ["de", "GBR", "US", "Neverland", "DE"],
        "zip": ["10115", "WC2H 8LG", "94303-5300", None, "+1"],
        "city": ["Bad Homburg", "London", "San José", None, None],
        "birth_year": ["1980", "19", None, "1975", "1999"],
        "clv_12m": [10.556, -3.0, 0.0, 5.0, 7.0],
    }
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_is_that_of_the_standard() -> None:
    """FIPS 180-4, the example of one block, and the platforms' own example address."""
    assert audiences.digest("abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert audiences.digest(audiences.email(" Test@Example.com\n")) == (
        "973dfe463ec85785f5f95af5ba3906eedb2d931c24e69824a89ea65dba4e813b"
    )
    assert audiences.digest(None) is None
    assert audiences.digest("") is None


@pytest.mark.parametrize(
    ("text", "region", "e164"),
    [
        ("(030) 1234-567", "DE", "+49301234567"),
        ("0044 20 7031 3000", None, "+442070313000"),
        ("+442070313000", "DE", "+442070313000"),
        ("1(212) 565-0000", "US", "+12125650000"),
        ("030 1234567", None, None),
        ("12", "DE", None),
        ("call me", "DE", None),
        ("", "DE", None),
        (None, None, None),
    ],
)
def test_telephone_numbers_become_e164(
    text: str | None, region: str | None, e164: str | None
) -> None:
    assert audiences.phone(text, region) == e164


def test_addresses_are_spelled_in_one_way() -> None:
    assert audiences.email(" A.B+c@GoogleMail.com") == "a.b+c@googlemail.com"
    assert audiences.gmail(" A.B+c@GoogleMail.com") == "ab@googlemail.com"
    assert audiences.gmail("A.B+c@Example.com") == "a.b+c@example.com"
    for bad in ("a@b", "a", "@b.org", "a@b@c.org", "a@b.", "", None):
        assert audiences.email(bad) is None
    assert audiences.country(" de ") == "DE"
    assert audiences.country("Neverland") is None


def written(kind: str, tmp_path: Path, value: str | None = "clv_12m") -> list[list[str]]:
    audiences.write(audiences.audience(PEOPLE, kind, value), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_google_hashes_four_fields_and_no_other(tmp_path: Path) -> None:
    header, *rows = written("google", tmp_path)
    assert header == ["Email", "Phone", "First Name", "Last Name", "Country", "Zip"]
    assert rows[0] == [sha("test@example.com"), sha("+49301234567"), sha("zoë ann"), sha("müller"),
                       "DE", "10115"]  # fmt: skip
    assert rows[1][:2] == [sha("janedoe@gmail.com"), sha("+442070313000")]
    assert rows[2] == ["", sha("+12125650000"), sha("o'neil-smith"), sha("ng"), "US", "94303-5300"]
    assert len(rows) == 4  # nobody can match the fourth person
    assert rows[3][0] == sha("=1@x.org")
    assert rows[3][5] == "'+1"


def test_meta_hashes_what_names_a_person_and_not_the_value(tmp_path: Path) -> None:
    header, *rows = written("meta", tmp_path)
    assert ",".join(header) == (
        "email,email,email,phone,phone,phone,madid,fn,ln,zip,ct,st,country,dob,doby,gen,age,uid,"
        "value"
    )
    first = dict(zip(header[6:], rows[0][6:], strict=True))
    assert rows[0][:6] == [sha("test@example.com"), "", "", sha("49301234567"), "", ""]
    assert first == {
        "madid": "", "fn": sha("zoë ann"), "ln": sha("müller"), "zip": sha("10115"),
        "ct": sha("badhomburg"), "st": "", "country": sha("de"), "dob": "", "doby": sha("1980"),
        "gen": "", "age": "", "uid": "", "value": "10.56",
    }  # fmt: skip
    second = dict(zip(header[6:], rows[1][6:], strict=True))
    assert rows[1][0] == sha("jane.doe+shop@gmail.com")
    assert (second["zip"], second["value"], second["doby"]) == (sha("wc2h8lg"), "0.0", "")
    third = dict(zip(header[6:], rows[2][6:], strict=True))
    assert (third["zip"], third["ct"], third["fn"]) == (
        sha("94303"), sha("sanjosé"), sha("oneilsmith"),
    )  # fmt: skip


def test_klaviyo_has_email_first_and_properties_after(tmp_path: Path) -> None:
    header, *rows = written("klaviyo", tmp_path)
    assert header == ["Email", "First Name", "Last Name", "Country", "Zip", "clv_12m"]
    assert rows == [
        ["test@example.com", "Zoë  Ann", "Müller", "de", "10115", "10.556"],
        ["jane.doe+shop@gmail.com", "JANE", "Doe Jr.", "GBR", "WC2H 8LG", "-3.0"],
    ]  # an address that a spreadsheet would run is no address


@pytest.mark.parametrize("start", [*"=+-@\t\r\n|\x00", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_text_that_a_spreadsheet_would_run_is_shown_instead(start: str, tmp_path: Path) -> None:
    evil = f"{start}cmd|' /C calc'!A0"
    assert files.neutral(evil) == f"'{evil}"
    people = PEOPLE.assign(first_name=evil, last_name=evil, zip=evil)
    audiences.write(audiences.audience(people, "klaviyo"), tmp_path / "k.csv")
    with (tmp_path / "k.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(files.FORMULA) and cell != "-3.0"]
    files.write(pd.DataFrame({"a": [evil, "x"], "n": [-1.5, 2.0]}), tmp_path / "l.csv")
    with (tmp_path / "l.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1][0].startswith("'")
    assert rows[1][1] == "-1.5"


def test_missing_columns_and_platforms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be csv, google, meta, klaviyo. Got 'fax'"):
        audiences.audience(PEOPLE, "fax")
    with pytest.raises(InputError, match="needs email or phone in the table customers"):
        audiences.audience(PEOPLE.drop(columns=["email", "phone"]), "google")
    with pytest.raises(InputError, match="Somebody must have a mail address"):
        audiences.audience(PEOPLE.assign(email=None, phone=None), "google")
    with pytest.raises(InputError, match=r"must end in \.csv"):
        audiences.write(audiences.audience(PEOPLE, "google"), tmp_path / "a.xlsx")
