"""Where the bundle of a registered version lies on this machine."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path

from features.errors import BundleError, InputError
from training import bundle, tracking

__all__ = ["DIGEST", "find"]

DIGEST = "clv.bundle_digest"  # tag of a version: see `bundle.digest`
INSIDE = "data/bundle"  # where the bundle lies within the artifacts of a version


def find(number: int, source: str, digest: str) -> Path:
    """The folder of a version's bundle on this machine, unverified.

    ``source`` is the recorded place of the version's artifacts, ``digest`` that of its bundle when
    it was registered, empty if unknown. Errors as `registry.fetch`.
    """
    folder = _local(number, source) or _download(number, source, digest)
    if digest and bundle.digest(folder) != digest:
        raise BundleError(
            f"Model folder {folder}: it must hold the bundle that was registered as version "
            f"{number}. Got another one. Restore the folder, or go back by clv rollback."
        )
    return folder


def _local(number: int, source: str) -> Path | None:
    """Where the bundle lies in this tree, else where it was recorded; ``None`` if far away."""
    recorded = tracking.local_path(source)
    if recorded is None:
        return None
    # MLflow records absolute paths. The tail holds after a move, and in a copy it is the copy's.
    here = tracking.artifacts()
    tail = re.search(r"models/m-[0-9a-f]+/artifacts$", recorded.as_posix())
    places = [here / tail.group()] if here and tail else []
    for place in (*places, recorded):
        if (place / INSIDE).is_dir():
            return place / INSIDE
    raise InputError(
        f"The files of version {number} must be in {(places or [recorded])[0]}. "
        "Got no such folder. Restore it, or set CLV_HOME to the tree that holds it."
    )


def _download(number: int, source: str, digest: str) -> Path:
    if not re.fullmatch("[0-9a-f]{64}", digest):  # it becomes part of a path
        raise InputError(
            f"Version {number} must carry the digest of its bundle ({DIGEST}). "
            f"Got {digest[:70]!r}. Name a version that clv train registered."
        )
    target = tracking.home() / "models" / digest
    if not target.exists():
        download = tracking.library("artifacts").download_artifacts
        uri, place = tracking.tracking_uri(), f"{source.rstrip('/')}/{INSIDE}"
        with tracking.plainly(), tracking.quiet(), _beside(target) as scratch:
            came = download(artifact_uri=place, dst_path=scratch, tracking_uri=uri)
            # Two processes may fetch at once; whoever comes second finds the same bytes there.
            with contextlib.suppress(OSError):
                Path(came).rename(target)
    return target


def _beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-")
