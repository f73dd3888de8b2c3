"""The search, by Optuna on validation texts. Gate and test are not read; an interrupted search goes on."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.compression.candidates import Candidate, candidates, space
from benchmarks.compression.records import Tried
from common.commands import say
from common.records import plain, read
from handler.errors import UserError

STUDY = "compression"
TRIED, SUBJECT = "tried", "subject"  # attributes of a trial and of the study


def search(
    folder: Path,
    subject: dict[str, Any],
    prunable: bool,
    minutes: float,
    margin: float,
    try_out: Callable[[Candidate], Tried],
) -> list[Tried]:
    """Candidates one after the other until all are tried or the time is up; those of an earlier search of the
    same `subject` are known. Plain int8, which all are compared with, comes first."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = _open(folder, subject)
    distributions: dict[str, Any] = {
        name: optuna.distributions.CategoricalDistribution(values) for name, values in space(prunable).items()
    }
    known = {tried.candidate: tried for tried in _known(study)}
    ends = time.monotonic() + 60 * minutes
    waiting = candidates(prunable)
    with tqdm(total=len(waiting), initial=len(known), desc="candidates", disable=None) as bar:
        while len(known) < len(waiting) and (time.monotonic() < ends or not known):
            candidate = Candidate() if not known else _proposed(study, distributions, known, waiting)
            say(f"{candidate}")
            tried = try_out(candidate)
            trial = optuna.trial.create_trial(
                params=candidate.params,
                distributions=distributions,
                value=_worth(tried, margin),
                user_attrs={TRIED: plain(tried)},
            )
            study.add_trial(trial)
            known[candidate] = tried
            bar.update()
            say(outcome(tried, margin))
    return list(known.values())


def outcome(tried: Tried, margin: float) -> str:
    """One candidate in a sentence."""
    found = tried.measured
    if found is None:
        return f"  refused: {tried.refused}"
    word = "likely to pass" if tried.may_pass(margin) else "not likely to pass"
    return (
        f"  {found.faster:.2f} times int8 ({found.low:.2f} to {found.high:.2f}), "
        f"{found.agreement:.2%} of labels agree, {word} at {margin:g}"
    )


def _worth(tried: Tried, margin: float) -> float:
    """What the sampler is to raise: the speed of what may pass, and less than any speed of what may not."""
    if tried.measured is None:
        return -1.0
    return tried.faster if tried.may_pass(margin) else -min(tried.measured.margin, 1.0)


def _proposed(
    study: Any, distributions: dict[str, Any], known: dict[Candidate, Tried], waiting: Sequence[Candidate]
) -> Candidate:
    """The next of an encoder that is there already, the whole one first: pruning takes minutes, and what is
    made of it seconds. Then what the sampler proposes, or the next that was not tried where that is known."""
    unknown = [candidate for candidate in waiting if candidate not in known]
    made = {candidate.keep for candidate in known}
    if cheap := [candidate for candidate in unknown if candidate.keep in made]:
        return cheap[0]
    trial = study.ask(distributions)
    study.tell(trial, state=_failed())  # it is added with its value once there is one
    candidate = Candidate.of(trial.params)
    return candidate if candidate not in known else unknown[0]


def _failed() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL


def _open(folder: Path, subject: dict[str, Any]) -> Any:
    """The study of this search, new or as it was left; `UserError` where it searched for something else."""
    import optuna

    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').absolute()}",
        study_name=STUDY,
        direction="maximize",
        load_if_exists=True,
    )
    before = study.user_attrs.get(SUBJECT)
    if before is None:
        study.set_user_attr(SUBJECT, subject)
    elif before != subject:
        differing = ", ".join(name for name in subject if before.get(name) != subject[name])
        raise UserError(
            f"{folder} holds a different search",
            seen=f"different {differing}",
            remedy="Choose another --output, or remove that folder",
        )
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    return study


def _known(study: Any) -> list[Tried]:
    found = [trial.user_attrs[TRIED] for trial in study.trials if TRIED in trial.user_attrs]
    return [read(each, Tried) for each in found]
