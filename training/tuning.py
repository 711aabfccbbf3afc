"""Search for how the trees should learn, on time before the out-of-time test.

Folds are rehearsals (`training.rehearsal`): fit before an origin, judge on what followed, all of
it before the moment that the test stands at. So the test never judges what it has chosen.

The score of a setting is the mean over folds of two losses, each over that of the settings the
search began with, which are therefore at 1: the Tweedie deviance of value (Jorgensen 1987,
Exponential dispersion models) and the log loss of churn. Lower is better. The first trial is what
it began with, and it is chosen unless another is better on every fold: with two or three folds
that overlap, a better mean alone is often chance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.catalogue import feature_hash
from features.errors import InputError
from features.settings import Settings, Trees
from features.spine import text
from features.store import Store
from training import rehearsal
from training.fitting import REHEARSED_CUSTOMERS, REHEARSED_ROWS, prepare
from training.members import Booster, Problem
from training.runs import Trial
from training.samples import Origin, collect
from training.tracking import home

__all__ = ["FILE", "Tuned", "tune"]

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, float], None]
Losses = list[list[float]]  # per fold: value, churn
FILE: Final = "tuning.db"  # in CLV_HOME: searches that may go on
STAGE: Final = "tuning"
#: Deviances of settings with different powers must be compared at one.
JUDGED_POWER: Final = 1.5
#: Least and most of what is searched, and whether in logs.
SPACE: Final[dict[str, tuple[float, float, bool]]] = {
    "eta": (0.03, 0.3, True),
    "max_depth": (2, 6, False),
    "min_child_weight": (1.0, 100.0, True),
    "subsample": (0.5, 1.0, False),
    "colsample": (0.3, 1.0, False),
    "reg_lambda": (1.0, 200.0, True),
    "power": (1.2, 1.8, False),
}


@dataclass(frozen=True)
class Tuned:
    """A search: its trials, the settings as they were first, and what was chosen."""

    settings: Settings
    trials: tuple[Trial, ...]
    chosen: int  # index into trials

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        best = self.trials[self.chosen]
        return {
            "trials": len(self.trials),
            "chosen": best.number,
            "score": best.scores["score"],
            "trees": asdict(self.settings.model.trees),
        }


@dataclass(frozen=True)
class _Fold:
    """One origin: what members learn from before it, and what then came; value, then churn."""

    learned: tuple[Problem, ...]
    judged: tuple[Problem, ...]


def tune(
    store: Store,
    known_until: int,
    longest: int,
    settings: Settings,
    trials: int,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Tuned:
    """Search `trials` settings of the trees for a training at `known_until`.

    Nothing at or after the cutoff of that training's out-of-time test is seen. The same data and
    seed give the same trials, also where a search was killed and goes on.

    Raises
    ------
    InputError
        optuna is missing, the history holds no fold, or there are no trees to tune.
    """
    optuna = _optuna()
    zone = settings.business.time_zone
    test = rehearsal.latest_test(store.first_ts, known_until, longest, zone)
    until = test[0] if test else known_until
    study_name = _name(store, until, longest, settings, seed)
    folds = _folds(store.until(until), until, longest, settings, workers, progress)
    with _search(optuna, home() / FILE, study_name) as study:
        space = _space(optuna)
        while len(done := _complete(optuna, study)) < trials:
            if progress:
                progress(STAGE, len(done) / trials)
            _try(optuna, study, space, done, folds, settings.model.trees, seed)
        found = _told(done[:trials], settings.model.trees)
    if progress:
        progress(STAGE, 1.0)
    chosen = _choice(found)
    trees = Trees(**found[chosen].params)
    return Tuned(replace(settings, model=replace(settings.model, trees=trees)), found, chosen)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError(
            "Tuning needs the package optuna. It is not installed. "
            "Run pip install 'optuna>=5,<6', or train without --tune."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _name(store: Store, until: int, longest: int, settings: Settings, seed: int) -> str:
    """Searches of one name have the same folds and losses, so that one may go on."""
    import xgboost

    known = [store.fingerprint, until, longest, settings.as_dict(), seed, feature_hash(),
             xgboost.__version__]  # fmt: skip
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


# Folds


def _folds(
    store: Store,
    until: int,
    longest: int,
    settings: Settings,
    workers: int,
    progress: Progress | None,
) -> list[_Fold]:
    zone = settings.business.time_zone
    rows = min(settings.model.max_rows, REHEARSED_ROWS)
    quick = replace(settings, model=replace(settings.model, max_rows=rows))
    planned = rehearsal.plan(store.first_ts, until, longest, zone)
    found = []
    for k, place in enumerate(planned):
        if progress:
            progress("folds to tune on", k / len(planned))
        # Origins with too little to learn from are left out, as in rehearsals.
        with suppress(InputError):
            found.append(_fold(store, Origin(*place), until, quick, workers))
    folds = [fold for fold in found if fold.learned]
    if not folds:
        raise InputError(
            f"Tuning needs an earlier moment to fit and judge trees at, before {text(until, zone)}."
            " Got none. Give a longer history, or train without --tune."
        )
    if progress:
        progress("folds to tune on", 1.0)
    return folds


def _fold(store: Store, origin: Origin, until: int, settings: Settings, workers: int) -> _Fold:
    ready = prepare(store, origin.cutoff, origin.months, settings, workers=workers)
    names, bare = ready.catalogue.names, ready.bare
    learned = bare.problems(ready.samples, names)
    if not learned:
        return _Fold((), ())
    share = min(1.0, REHEARSED_CUSTOMERS / max(bare.customers, 1))
    zone = settings.business.time_zone
    came = collect(
        store, ready.catalogue, [origin], until, zone, share, workers, season=bare.anchor.season
    )
    return _Fold(learned, replace(bare, origins=(origin,)).posed(came, names))


def _losses(folds: Sequence[_Fold], trees: Trees, seed: int) -> Losses:
    return [
        [
            _loss(judged, booster)
            for judged, booster in zip(
                fold.judged, Booster.fit_each(fold.learned, seed, trees), strict=True
            )
        ]
        for fold in folds
    ]


def _loss(judged: Problem, booster: Booster) -> float:
    """Mean Tweedie deviance of value, or mean log loss of churn, on rows not learned from."""
    z, y = judged.margin + booster.correction(judged.X), judged.target
    if judged.kind == "churn":
        return float(np.mean(np.logaddexp(0.0, z) - y * z))
    a, b = 1.0 - JUDGED_POWER, 2.0 - JUDGED_POWER
    each = y**b / (a * b) - y * np.exp(a * z) / a + np.exp(b * z) / b
    return float(2.0 * np.mean(each))


# The search


@contextmanager
def _search(optuna: Any, file: Path, name: str) -> Iterator[Any]:
    """The study of a name; its file's faults in our words."""
    if set("%?#") & set(str(file)):
        raise InputError(
            f"The path of the searches must be without % ? #. Got {file}. "
            "Set CLV_HOME to another folder."
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=f"sqlite:///{file.as_posix()}", study_name=name, load_if_exists=True
        )
        # What a killed search had begun is no trial.
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        yield study
    except Exception as error:
        if not type(error).__module__.startswith(("optuna", "sqlalchemy", "sqlite3")):
            raise
        said = str(error).splitlines()[0][:200]
        raise InputError(
            f"The file of searches {file} must be usable. Got: {said}. "
            "Wait for another search to end, or remove the file to begin anew."
        ) from None


def _space(optuna: Any) -> dict[str, Any]:
    kinds = optuna.distributions
    return {
        name: kinds.IntDistribution(int(low), int(high))
        if name == "max_depth"
        else kinds.FloatDistribution(low, high, log=log)
        for name, (low, high, log) in SPACE.items()
    }


def _complete(optuna: Any, study: Any) -> list[Any]:
    found = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return sorted(found, key=lambda trial: trial.number)


def _try(
    optuna: Any,
    study: Any,
    space: dict[str, Any],
    done: Sequence[Any],
    folds: Sequence[_Fold],
    first: Trees,
    seed: int,
) -> None:
    """One trial more: the settings as they are, then what the sampler proposes."""
    if not done:
        losses = _losses(folds, first, seed)
        # Settings may lie outside what is searched; the sampler then takes the nearest.
        near = {name: min(max(getattr(first, name), low), high)
                for name, (low, high, _) in SPACE.items()}  # fmt: skip
        study.add_trial(
            optuna.trial.create_trial(
                params=near, distributions=space, value=1.0, user_attrs={"losses": losses}
            )
        )
        return
    # A sampler of its own for each trial: where a search goes on, it proposes the same.
    draw = int(np.random.SeedSequence([seed, len(done)]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=draw, constant_liar=False)
    trial = study.ask(space)
    losses = _losses(folds, replace(first, **trial.params), seed)
    trial.set_user_attr("losses", losses)
    start = done[0].user_attrs["losses"]
    study.tell(trial, float(np.mean(_relative(losses, start))))


def _relative(losses: Losses, start: Losses) -> Floats:
    """Each loss over that of the first trial, (folds, 2)."""
    return np.asarray(np.array(losses) / np.array(start), np.float64)


def _told(done: Sequence[Any], first: Trees) -> tuple[Trial, ...]:
    start = done[0].user_attrs["losses"]
    found = []
    for k, trial in enumerate(done):
        over = _relative(trial.user_attrs["losses"], start)
        scores = {"score": float(over.mean()), "value_deviance": float(over[:, 0].mean()),
                  "churn_log_loss": float(over[:, 1].mean())}  # fmt: skip
        scores |= {f"score_fold_{j + 1}": float(row.mean()) for j, row in enumerate(over)}
        params = asdict(first) | ({} if k == 0 else trial.params)
        found.append(Trial(k, params, scores))
    return tuple(found)


def _choice(trials: Sequence[Trial]) -> int:
    """The best score among those that beat the first trial on every fold, else the first."""

    def sure(trial: Trial) -> bool:
        return all(v < 1.0 for name, v in trial.scores.items() if name.startswith("score_fold"))

    better = [k for k, trial in enumerate(trials) if sure(trial)]
    return min(better, key=lambda k: (trials[k].scores["score"], k), default=0)
