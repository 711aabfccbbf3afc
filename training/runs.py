"""What a finished training leaves in MLflow's run: files, values, data sets and the bundle."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from training import tracking

if TYPE_CHECKING:
    import pandas as pd

    from training.gate import Verdict

__all__ = [
    "NOTE",
    "Dataset",
    "Trial",
    "described",
    "log_files",
    "log_model",
    "log_trials",
    "log_values",
]

NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description
PARENT = "mlflow.parentRunId"  # the tag by which MLflow shows a run below another
MOST_NOTE = 5000  # characters that it takes


@dataclass(frozen=True)
class Dataset:
    """What a run learned from, as MLflow shows it: names and numbers, no rows."""

    name: str
    digest: str  # fingerprint of the sorted rows, at most 36 characters
    source: str  # file name or database, without credentials
    profile: Mapping[str, Any]  # counts and dates


@dataclass(frozen=True)
class Trial:
    """One setting that a search tried: a child of the training's run."""

    number: int  # 0 is what the search began with
    params: Mapping[str, Any]
    scores: Mapping[str, float]


def described(verdict: Verdict | None) -> dict[str, str]:
    """Tags by which MLflow's pages show what the gate said: a word, why, and every line of it."""
    if verdict is None:
        return {}
    table = f"{verdict.reason}\n\n```\n{verdict.table()}\n```"
    return verdict.tags() | {NOTE: table[:MOST_NOTE]}


def log_values(
    store: tracking.Store,
    model: Any,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    datasets: Sequence[Dataset],
) -> None:
    """Metrics, on the run and on the model, parameters and what was learned from."""
    entities = tracking.library("entities")
    run_id, now = model.source_run_id, int(time.time() * 1000)
    # With the model's id they stand on the run and on the model.
    values = [
        entities.Metric(key, float(value), now, 0, model_id=model.model_id)
        for key, value in metrics.items()
    ]
    texts = [entities.Param(key, str(value)) for key, value in params.items()]
    # MLflow takes at most 1,000 metrics and 100 parameters at a time.
    for at in range(0, len(values), 500):
        store.log_batch(run_id, metrics=values[at : at + 500])
    for at in range(0, len(texts), 100):
        store.log_batch(run_id, params=texts[at : at + 100])
    sources = [
        entities.Dataset(
            each.name, each.digest, "local", each.source, profile=json.dumps(dict(each.profile))
        )
        for each in datasets
    ]
    context = [entities.InputTag("mlflow.data.context", "training")]
    if sources:
        store.log_inputs(run_id, [entities.DatasetInput(each, tags=context) for each in sources])


def log_trials(store: tracking.Store, run: Any, trials: Sequence[Trial]) -> None:
    """Each trial as a finished run below `run`."""
    entities = tracking.library("entities")
    for trial in trials:
        child = store.create_run(
            run.info.experiment_id,
            tags={PARENT: run.info.run_id, **tracking.this_process()},
            run_name=f"trial {trial.number}",
        )
        now = int(time.time() * 1000)
        store.log_batch(
            child.info.run_id,
            metrics=[entities.Metric(k, float(v), now, 0) for k, v in trial.scores.items()],
            params=[entities.Param(k, str(v)) for k, v in trial.params.items()],
        )
        store.set_terminated(child.info.run_id, "FINISHED")


def log_files(store: tracking.Store, run_id: str, artifacts: Mapping[str, Path]) -> None:
    """Files by their path within the run; ``ValueError`` for one that leads out of it."""
    if not artifacts:
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in artifacts.items():
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise ValueError(f"an artifact must have a path within the run, got {name!r}")
            target = Path(scratch, inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        store.log_artifacts(run_id, scratch)


def log_model(
    store: tracking.Store,
    run: Any,
    folder: Path,
    loader_module: str,
    inputs: pd.DataFrame,
    outputs: pd.DataFrame,
    requirements: Sequence[str],
) -> Any:
    """The bundle as a logged model. Nothing is loaded or run in order to store it."""
    entities, models = tracking.library("entities"), tracking.library("models")
    save_model = tracking.library("pyfunc").save_model
    example = inputs.astype("float64")
    model = store.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run.info.run_id
    )
    with tempfile.TemporaryDirectory() as scratch, tracking.quiet():
        # MLflow keeps the folder's name, and `registry.fetch` relies on it.
        shutil.copytree(folder, Path(scratch, "bundle"))
        save_model(
            path=str(Path(scratch, "model")),
            loader_module=loader_module,
            data_path=str(Path(scratch, "bundle")),
            signature=models.infer_signature(example, outputs),
            input_example=example,
            pip_requirements=list(requirements),
            mlflow_model=models.Model(
                artifact_path=model.artifact_location,
                run_id=run.info.run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )
        store.log_model_artifacts(model.model_id, str(Path(scratch, "model")))
    store.log_outputs(run.info.run_id, [entities.LoggedModelOutput(model.model_id, step=0)])
    return store.finalize_logged_model(model.model_id, "READY")
