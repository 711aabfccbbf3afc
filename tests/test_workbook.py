"""The workbook read back as a spreadsheet would: its numbers are those of the commands' files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from csv import QUOTE_ALL
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from conftest import ODD_CHANNELS as CHANNELS
from conftest import Trained, clv, use_home

from features.errors import InputError
from serving.decisions import files
from serving.decisions.files import require_size
from serving.views import cells, language
from serving.views.cells import Part, Sheet
from training import registry
from training.compared import OURS

SAY = language.words("en")
SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
PAYLOADS = (
    "=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", "\x00=1+1", "\uff1d1+1", "|calc",
    '=HYPERLINK("https://example.org")', "https://example.org", "mailto:a@example.org",
    "internal:Sheet1!A1",
)  # fmt: skip
SHEETS = ["Key figures", "Product", "Customer experience", "Marketing", "Sales", "Segments",
          "Channels", "Cohorts", "Target list", "Model quality", "Customers"]  # fmt: skip
#: Names of files and how a reader of English meets them.
ARMS = {"treatment": "contact", "all": "All", "cold_start": "no order yet"}
Rows = dict[int, list[object]]


def book(path: Path) -> dict[str, Rows]:
    """Sheets by name, each row's cells by its number: numbers, texts, None for nothing."""
    with zipfile.ZipFile(path) as inside:
        names = [one.attrib["name"] for one in parsed(inside, "workbook").iter(f"{SPACE}sheet")]
        shared: list[str] = []
        if "xl/sharedStrings.xml" in inside.namelist():
            every = parsed(inside, "sharedStrings").iter(f"{SPACE}si")
            shared = ["".join(part.text or "" for part in one.iter(f"{SPACE}t")) for one in every]
        return {
            name: {int(row.attrib["r"]): [value(cell, shared) for cell in row]
                   for row in parsed(inside, f"worksheets/sheet{k}").iter(f"{SPACE}row")}
            for k, name in enumerate(names, 1)
        }  # fmt: skip


def parsed(inside: zipfile.ZipFile, name: str) -> ElementTree.Element:
    return ElementTree.fromstring(inside.read(f"xl/{name}.xml"))  # noqa: S314  our own file


def value(cell: ElementTree.Element, shared: list[str]) -> object:
    kind, found = cell.get("t", "n"), cell.find(f"{SPACE}v")
    if kind == "inlineStr":
        text = "".join(part.text or "" for part in cell.iter(f"{SPACE}t"))
    elif kind == "s" and found is not None:
        text = shared[int(found.text or "")]
    else:
        assert kind == "n"
        return None if found is None else float(found.text or "")
    return re.sub("_x([0-9A-F]{4})_", lambda code: chr(int(code[1], 16)), text)


def table(rows: Rows, title: str | None = None) -> pd.DataFrame:
    """The table below a heading, or the one of a sheet that has no more; by its column headings."""
    if title is None:
        head = min(k for k, row in rows.items() if len(row) > 3)
    else:
        below = (k for k, row in rows.items() if row == [title] and len(rows.get(k + 1, [])) > 1)
        head = next(below) + 1
    names, found = [str(name) for name in rows[head]], []
    assert len(set(names)) == len(names)
    while len(rows.get(head + 1, [])) == len(names):
        head += 1
        found.append(rows[head])
    return pd.DataFrame(found, columns=names, dtype=object)


def side_by_side(rows: Rows, *names: str) -> pd.DataFrame:
    """A table that stands in parts below one another, the first column in each."""
    parts = [table(rows, SAY(f"workbook.part.{name}")) for name in names]
    assert all(part.iloc[:, 0].tolist() == parts[0].iloc[:, 0].tolist() for part in parts)
    return pd.concat([parts[0], *(part.iloc[:, 1:] for part in parts[1:])], axis=1)


def told(path: Path) -> pd.DataFrame:
    """A file of a command with its text as it was before it was made safe for CSV."""
    frame = pd.read_csv(path, dtype={"customer_id": str}, keep_default_na=False, na_values=[""])
    return frame.map(lambda cell: cell[1:] if isinstance(cell, str) and cell[:1] == "'" else cell)


def same(own: pd.DataFrame, expected: pd.DataFrame, near: float = 0.0) -> int:
    """All columns of both are equal, by heading; how many cells were compared."""
    assert len(own) == len(expected)
    count = 0
    for column in expected:
        heading = SAY.heading(str(column))
        for cell, theirs in zip(own[heading], expected[column], strict=True):
            known = ARMS.get(theirs, theirs) if column in ("arm", "evidence", "cohort") else theirs
            close(cell, day(known) if column == "next_order_on" else known, near)
            count += 1
    return count


def day(text: object) -> object:
    """The number that a spreadsheet keeps of a day."""
    if not isinstance(text, str):
        return text
    return float((date.fromisoformat(text) - date(1899, 12, 30)).days)


def close(cell: object, expected: object, near: float = 0.0) -> None:
    """A cell holds what is expected; a worksheet keeps 16 digits of a number."""
    if pd.isna(expected):
        assert cell is None
    elif isinstance(expected, str):
        assert cell == expected
    else:
        assert cell == pytest.approx(expected, rel=1e-15, abs=near)


@pytest.fixture(autouse=True)
def home(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    use_home(monkeypatch, trained.home)


@pytest.fixture(scope="module")
def sheets(desk: Path) -> dict[str, Rows]:
    return book(desk / "en.xlsx")


def run(desk: Path, *words: object) -> None:
    ran = clv(*words)
    assert ran.code == 0, ran.err


def test_segments_and_customers_are_those_of_their_commands(
    desk: Path, sheets: dict[str, Rows]
) -> None:
    p = desk / "p.csv"
    segments = told(desk / "of.csv")
    for sheet in ("Segments", "Key figures"):
        whole = side_by_side(sheets[sheet], "segments", "drivers")
        assert same(whole, segments.drop(columns="next_step")) > 50
    steps = table(sheets["Marketing"], "What to do with each segment")
    rest = segments[segments["segment"] != "All"]
    same(steps, rest[["segment", "customers", "clv_3m", "next_step"]])
    leaving = table(sheets["Customer experience"], "Who leaves, by segment")
    same(leaving, segments[["segment", "churn_3m", "clv_3m"]])
    customers = table(sheets["Customers"])
    predicted, worth = told(p), told(desk / "v.csv")
    assert customers["Customer"].tolist() == predicted["customer_id"].tolist()
    assert {"007", "NA", "1e5", "=1+1", "carriage\rreturn"} <= set(customers["Customer"])
    own = ["customer_id", "evidence", "churn_3m", "orders_3m", "revenue_3m", "clv_3m", "clv_3m_low",
           "clv_3m_high", "next_order_on"]  # fmt: skip
    compared = same(customers, predicted[own]) + same(customers, told(desk / "s.csv"))
    parts = ["past_orders", "past_revenue", "past_margin", "total_3m", "keep_at_most_3m"]
    compared += same(customers, worth[parts])
    assert compared == customers.size + len(customers)  # the id stands in two of the files
    figures = table(sheets["Key figures"], "Key figures").set_index("Figure")["Value"]
    sums = told(desk / "sums.csv").iloc[0]
    for name in ("customers", "prospects", "past_orders", "past_revenue", "past_margin",
                 "keep_at_most_3m", "win_at_most_3m"):  # fmt: skip
        close(figures[SAY.heading(name)], sums[name])
    every = segments.iloc[-1]
    for name in ("clv_3m", "clv_3m_per_customer", "churn_3m"):
        close(figures[SAY.heading(name)], every[name])


def test_readers_see_rows_of_the_whole_table(desk: Path, sheets: dict[str, Rows]) -> None:
    every = table(sheets["Customers"])
    best = table(sheets["Sales"], "Worth most in the months ahead")
    assert len(best) == 50
    first = every.sort_values("Value, 3 months", ascending=False, kind="stable").head(50)
    assert best.to_numpy().tolist() == first[list(best)].to_numpy().tolist()
    slipping = table(sheets["Sales"], "Worth much and likely to leave")
    some = every[every["Segment"] == "Win over"]
    some = some.sort_values("Value at risk, 3 months", ascending=False, kind="stable").head(50)
    assert slipping.to_numpy().tolist() == some[list(slipping)].to_numpy().tolist()
    assert len(slipping) > 5


def test_channels_are_those_of_the_command(desk: Path, sheets: dict[str, Rows]) -> None:
    expected = told(desk / "c.csv").drop(columns="cohort")
    assert set(expected["channel"]) == {*CHANNELS, "All"}
    whole = side_by_side(
        sheets["Channels"], "channels", "realised", "ltv", "return", "ahead", "again"
    )
    assert whole.shape == expected.shape
    assert same(whole, expected) > 150
    brief = table(sheets["Marketing"], "What a customer costs and brings")
    same(brief, expected[["channel", "cac", "ltv_12m", "ltv_to_cac", "roi", "note"]])


def test_retention_and_cohorts_are_those_of_the_command(
    desk: Path, sheets: dict[str, Rows]
) -> None:
    cohorts = told(desk / "kept/cohorts.csv")
    own, every = cohorts[cohorts["cohort"] != "all"], cohorts[cohorts["cohort"] == "all"]
    # The command writes six digits behind the point.
    near = 6e-7
    assert same(table(sheets["Cohorts"], SAY("workbook.part.cohorts")), cohorts, near) > 100
    for sheet in ("Cohorts", "Product"):
        same(table(sheets[sheet], SAY("workbook.part.all")), every.drop(columns="cohort"), near)
    grid = table(sheets["Cohorts"], SAY("workbook.part.active"))
    pairs = {(row.cohort, str(row.since)): row.active for row in own.itertuples()}
    for row in grid.to_dict("records"):
        for since, active in list(row.items())[1:]:
            known = pairs.get((row["Cohort"], since))
            assert active == (None if known is None else pytest.approx(known, abs=near))
    channels = told(desk / "kept/channels.csv")
    whole = side_by_side(sheets["Channels"], "retention", "repeat", "stays")
    assert same(whole, channels, near) > 50


def test_the_target_list_is_that_of_the_command(desk: Path, sheets: dict[str, Rows]) -> None:
    expected = told(desk / "t.csv").dropna(axis=1, how="all")
    listed = table(sheets["Target list"])
    assert len(listed.columns) == len(expected.columns)
    assert same(listed, expected) > 1_000
    first = table(sheets["Marketing"], "First of the target list")
    assert first["Customer"].tolist() == listed["Customer"].tolist()[: len(first)]


def test_model_quality_is_that_of_the_card(sheets: dict[str, Rows]) -> None:
    card = json.loads((registry.fetch("1") / "card.json").read_text(encoding="utf-8"))
    scores, quality = card["scores"], table(sheets["Model quality"], "Out-of-time test")
    assert list(quality)[1] == OURS
    assert set(quality.columns[1:]) == set(scores["models"])
    for name, metrics in scores["models"].items():
        known = quality.set_index("Metric")[name]
        for metric, expected in metrics.items():
            close(known[SAY.heading(metric)], expected)
    slices = table(sheets["Model quality"], SAY("workbook.part.slices"))
    for cell, one in zip(slices["Bias of the total"], scores["slices"], strict=True):
        close(cell, one["bias"])


def test_every_heading_is_in_words(sheets: dict[str, Rows]) -> None:
    assert list(sheets) == SHEETS
    for name, rows in sheets.items():
        for row in rows.values():
            if len(row) > 1 and all(isinstance(cell, str) for cell in row):
                plain = [cell for cell in row if re.fullmatch("[a-z]+_[a-z_0-9]+", str(cell))]
                assert plain == [], name


def test_charts_show_the_tables_and_nothing_else(desk: Path) -> None:
    with zipfile.ZipFile(desk / "en.xlsx") as inside:
        charts = [name for name in inside.namelist() if "/charts/chart" in name]
        found = [inside.read(name).decode() for name in charts]
    kinds = [kind for kind in ("barChart", "lineChart")
             if any(f"<c:{kind}>" in one for one in found)]  # fmt: skip
    assert (len(charts) >= 8, len(kinds)) == (True, 2)
    place = re.compile(r"('[A-Z][a-z]+ [a-z]+'|[A-Z][a-z]+)!\$[A-Z]+\$\d+(:\$[A-Z]+\$\d+)?")
    formulas = [text for one in found for text in re.findall("<c:f>(.*?)</c:f>", one)]
    assert formulas
    assert all(place.fullmatch(text) for text in formulas)


def harmless(path: Path) -> None:
    """No formula, no link, nothing from outside."""
    with zipfile.ZipFile(path) as inside:
        for name in inside.namelist():
            if name.startswith("xl/media/"):
                assert inside.read(name).startswith(b"\x89PNG"), name
                continue
            content = inside.read(name).decode("utf-8")
            if "/charts/" not in name:
                assert not re.search(r"<f[ >]|<hyperlink|<definedName [^>]*>=", content), name
            assert 'TargetMode="External"' not in content, name
            assert "externalLink" not in name


def test_data_bring_no_formula_and_no_link(desk: Path, tmp_path: Path) -> None:
    harmless(desk / "en.xlsx")
    odd = pd.DataFrame({"customer_id": PAYLOADS, "value": 1.0, "note": PAYLOADS})
    grid = pd.DataFrame([[1.5] * len(PAYLOADS)], columns=list(PAYLOADS))
    grid.insert(0, "segment", ["=1+1"])
    parts = (Part("sheet.customers", odd, notes=PAYLOADS), Part("part.figures", grid, named=1),
             Part("part.slices", None, "=1+1"))  # fmt: skip
    out = tmp_path / "odd.xlsx"
    rows = cells.write([Sheet("sheet.figures", "=1+1", parts)], out, "=1+1")
    assert rows == {"Key figures": len(PAYLOADS) + 1}
    harmless(out)
    read = table(book(out)["Key figures"], "Customers")
    assert read["Customer"].tolist() == read["Note"].tolist() == list(PAYLOADS)
    assert list(table(book(out)["Key figures"], "Key figures"))[1:] == list(PAYLOADS)


def test_too_much_is_refused_and_nothing_is_cut(tmp_path: Path, desk: Path) -> None:
    with pytest.raises(InputError, match=r"takes 1,048,475 customers. Got 1,048,477. Report on a"):
        require_size(1_048_477)
    out = tmp_path / "large.xlsx"
    out.write_text("as before")
    for frame, must in (
        (pd.DataFrame({"value": range(1_048_577)}), "takes 1,048,575 rows.*part of the"),
        (pd.DataFrame({"note": ["x" * 32_768]}), "takes 32,767 characters. Got 32,768 in note"),
    ):
        with pytest.raises(InputError, match=must):
            cells.write([Sheet("sheet.figures", "", (Part("part.figures", frame),))], out, "")
        assert out.read_text() == "as before"
    ran = clv("report", desk / "data", "--predictions", desk / "p.csv", "--out", tmp_path / "a.csv")
    assert (ran.code, ran.out) == (2, "")
    assert "--out must end in .xlsx or .html" in ran.err
    ran = clv(
        "report", desk / "data", "--predictions", desk / "p.csv", "--out", out, "--horizon", 6
    )
    assert "must carry --horizon 6. Got 3, 12" in ran.err
    assert out.read_text() == "as before"


def test_what_is_missing_is_asked_for(desk: Path, tmp_path: Path, trained: Trained) -> None:
    data, p = tmp_path / "data", tmp_path / "p.csv"
    data.mkdir()
    shutil.copy(desk / "data/clv.toml", data)
    trained.orders[["customer_id", "order_ts", "amount"]].to_parquet(data / "orders.parquet")
    told(desk / "p.csv").assign(model_version="77").to_csv(p, index=False, quoting=QUOTE_ALL)
    out = tmp_path / "clv.xlsx"
    ran = clv("report", data, "--predictions", p, "--out", out, "--top", 5, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.json["missing"]) == {
        "acquisition",
        "channels",
        "categories",
        "surveys",
        "model",
    }
    assert ran.json["sheets"]["Channels"] == ran.json["sheets"]["Model quality"] == 0
    assert ran.json["sheets"]["Target list"] == 5
    assert ran.json["customers"] == ran.json["sheets"]["Customers"] == len(told(p))
    made = book(out)
    assert list(made) == SHEETS
    for sheet, must in {
        "Channels": "Add the table spend", "Model quality": "77", "Product": "column category",
        "Customer experience": "survey scores", "Marketing": "Add acquisition_channel",
    }.items():  # fmt: skip
        lines = [str(row[0]) for row in made[sheet].values() if len(row) == 1]
        said = " ".join(lines)  # a long one takes several rows
        assert re.search(f"Not here yet[^→]*{re.escape(must)}", said), sheet
    assert len(table(made["Key figures"], "Key figures")) > 8


def test_the_same_customers_give_the_same_bytes_in_any_order(desk: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(desk / "data", tmp_path / "data"))
    for name in ("orders", "customers"):
        frame = pd.read_parquet(data / f"{name}.parquet")
        frame.sample(frac=1, random_state=2).to_parquet(data / f"{name}.parquet")
    mixed = pd.read_csv(desk / "p.csv", dtype=str, keep_default_na=False).sample(
        frac=1, random_state=1
    )
    mixed.to_csv(tmp_path / "p.csv", index=False, quoting=QUOTE_ALL)
    out = tmp_path / "clv.xlsx"
    run(desk, "report", data, "--predictions", tmp_path / "p.csv", "--out", out)
    assert out.read_bytes() == (desk / "en.xlsx").read_bytes()


def test_what_is_printed_names_nobody(desk: Path) -> None:
    said = (desk / "said.txt").read_text(encoding="utf-8")
    assert "canary" not in said
    for word in ("Value, 3 months", "Customers (", "Repeat rate, 12 months", "en.xlsx"):
        assert word in said


def test_libreoffice_opens_it_with_every_cell(desk: Path, tmp_path: Path) -> None:
    office = shutil.which("soffice")
    if office is None and not os.environ.get("CI"):
        pytest.skip("LibreOffice is not on this machine (package libreoffice-calc-nogui)")
    assert office is not None
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    subprocess.run(
        [office, "--headless", profile, "--convert-to", "xlsx", "--outdir", str(tmp_path / "xlsx"),
         str(desk / "en.xlsx")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    before, after = book(desk / "en.xlsx"), book(tmp_path / "xlsx/en.xlsx")
    assert list(before) == list(after)
    for name, rows in before.items():
        for row, again in zip(full(rows), full(after[name]), strict=True):
            for cell, other in zip(row, again, strict=True):
                number = isinstance(cell, float)
                assert other == (pytest.approx(cell, rel=1e-9) if number else cell), name


def full(rows: Mapping[int, list[object]]) -> list[list[object]]:
    """Rows without their empty cells; LibreOffice has one kind of line end."""
    found = ([re.sub("\r\n?", "\n", cell) if isinstance(cell, str) else cell for cell in row
              if cell is not None] for _, row in sorted(rows.items()))  # fmt: skip
    return [row for row in found if row]


def test_apostrophes_are_for_csv_only() -> None:
    # What `told` takes away is what the commands add, no more.
    assert [files.neutral(text) for text in CHANNELS[:3]] == [f"'{text}" for text in CHANNELS[:3]]
