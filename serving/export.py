"""Features, dictionary and models as files for other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.behaviour import Counts, Rows, build, learn
from features.catalogue import Catalogue, catalogue
from features.errors import InputError
from features.reading import Data, as_of_in, find_settings, read
from features.settings import Settings
from features.settings import months as checked_months
from features.spine import Cutoffs, instant, text
from features.store import Bucket, Store
from serving.loader import load
from serving.writing import replacing, require_writable
from training import bundle, registry
from training import labels as label_windows
from training.fitting import Progress
from training.samples import each_bucket

__all__ = ["dictionary", "dictionary_text", "export", "features"]


def dictionary(model: str | None = None) -> list[dict[str, str]]:
    """The data dictionary; of a model, with its channels, categories and attributes."""
    words = load(model).model.catalogue if model else catalogue()
    return words.dictionary()


def dictionary_text(entries: Sequence[dict[str, str]]) -> str:
    """The dictionary for a person, by family."""
    lines, family = [], ""
    for entry in entries:
        if entry["family"] != family:
            family = entry["family"]
            lines += ["", family.upper()]
        lines.append(f"  {entry['name']} ({entry['unit']}): {entry['meaning']}")
        lines.append(f"      = {entry['formula']}")
    return "\n".join(lines).strip("\n")


def features(
    data: Data,
    as_of: Sequence[str],
    out: Path,
    *,
    labels: Sequence[int] | None = None,
    model: str | None = None,
    config: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write features of every customer at every date to a Parquet file, bucket by bucket.

    Columns: customer_id, as_of, one per feature, and for each label horizon h ``revenue_{h}m``,
    ``orders_{h}m`` and ``churned_{h}m``, empty where the data do not cover the window.

    Returns
    -------
    Counts of rows, features and rows without a ripe label.
    """
    require_writable(out, [".parquet"])
    settings = load(model).settings(data, config) if model else find_settings(data, config)
    months = _label_months(labels)
    zone = settings.business.time_zone
    cutoffs = Cutoffs.at([instant(day, zone) for day in as_of], zone)
    with read(data, settings, progress) as (store, _):
        for day in as_of:
            as_of_in(store, day, settings)
        words = (
            load(model).model.catalogue
            if model
            else _learned(store, int(cutoffs.times[0]), settings, workers or 1)
        )
        return _write(store, cutoffs, words, months, zone, out, workers, progress)


def _label_months(labels: Sequence[int] | None) -> tuple[int, ...]:
    try:
        return checked_months(tuple(labels)) if labels else ()
    except ValueError as error:
        raise InputError(f"--labels {error}. Write them like 12,24.") from None


def _learned(store: Store, before: int, settings: Settings, workers: int) -> Catalogue:
    static = settings.customers.static
    counts = each_bucket(store, lambda bucket: Counts.of(bucket, before, static), workers)
    return catalogue(learn(counts))


def _write(
    store: Store,
    cutoffs: Cutoffs,
    words: Catalogue,
    months: Sequence[int],
    zone: str,
    out: Path,
    workers: int | None,
    progress: Progress | None,
) -> dict[str, Any]:
    stamps = np.array([text(int(t), zone) for t in cutoffs.times], object)
    counts = {"rows": 0, "features": len(words.names), "unripe": dict.fromkeys(months, 0)}

    def one(bucket: Bucket) -> tuple[pa.Table, dict[int, int]]:
        rows = build(bucket, cutoffs, words)
        found = label_windows.build(bucket, rows, cutoffs, months, store.coverage_end, zone)
        unripe = {h: int((~label.ripe).sum()) for h, label in found.items()}
        return _table(rows, stamps, found), unripe

    writer: pq.ParquetWriter | None = None
    step = workers or os.cpu_count() or 1
    with replacing(out) as temporary:
        for first in range(0, store.buckets, step):
            part = store.only(range(first, min(first + step, store.buckets)))
            for table, unripe in each_bucket(part, one, step):
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
                counts["rows"] += len(table)  # type: ignore[operator]
                for h, n in unripe.items():
                    counts["unripe"][h] += n  # type: ignore[index]
            if progress:
                progress("features", min(1.0, (first + step) / store.buckets))
        if writer:
            writer.close()
    return counts


def _table(
    rows: Rows, stamps: np.ndarray[Any, Any], labels: dict[int, label_windows.Labels]
) -> pa.Table:
    columns: dict[str, Any] = {
        "customer_id": pa.array(rows.ids[rows.who], pa.string()),
        "as_of": pa.array(stamps[rows.cut], pa.string()),
    }
    columns |= {name: rows.values[:, j] for j, name in enumerate(rows.catalogue.names)}
    for h, label in labels.items():
        columns[f"revenue_{h}m"] = label.net
        columns[f"orders_{h}m"] = label.orders
        columns[f"churned_{h}m"] = label.churned
    return pa.table(columns)


def export(folder: Path, model: str = "champion") -> str:
    """Copy a registered model to a new folder, verified before and after; its version."""
    chosen = registry.find(model)
    parts = bundle.verify(registry.fetch(chosen.number), bundle.key(registry.home()))
    bundle.save(parts, folder, bundle.key(registry.home()))
    return str(chosen.number)
