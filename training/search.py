"""`python -m training search`: search a YAML space for the best recipe by validation macro-F1, with Optuna.

    learning_rate: {low: 2e-5, high: 3e-4, log: true}
    epochs: {low: 2, high: 4}
    freeze: [none, embeddings]

The study is stored in `<output>/study.db`, so the same command continues an interrupted search. At the end it
writes `best.yaml`, which `python -m training train --config` takes, `search.png` and `history.png`; no test
split is read, and no checkpoint is kept.
"""

import argparse
import dataclasses
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from common.atomic import write_text
from common.commands import emit, positive_int, say
from handler.errors import UserError
from training.data import Dataset
from training.options import add_options, load, prepare, read_config, recipe
from training.recipe import Recipe
from training.recipe import options as recipe_options
from training.summary import table

# Flags and `--config` set everything else. Trials that do worse than the median at the same epoch are stopped
# early; a trial that was running when a search was interrupted is repeated. One process at a time.

OURS = {"space", "trials", "output", "config"}  # of the search; best.yaml holds all else
RANGE = {"low", "high", "log", "step"}


def search_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--space", type=Path, required=True, help="YAML file: settings and their ranges")
    parser.add_argument("--trials", type=positive_int, default=20, help="total trials (default: 20)")
    parser.add_argument("--output", type=Path, default="build/search", help="default: build/search")


def search(options: argparse.Namespace) -> int:
    import optuna

    space = read_space(options.space)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = recipe(options)
    dataset = load(options)
    say(table(dataset))
    prepare(options)
    study = open_study(options, space, dataset, chosen)
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))
    if done:
        say(f"{len(done)} of {options.trials} trials are done already")
    for _ in range(len(done), options.trials):
        trial = study.ask(space)
        try:
            study.tell(trial, _score(trial, dataset, chosen, options))
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            say(f"trial {trial.number}: stopped early, worse than the median")
    _finish(study, options, chosen)
    return 0


def read_space(path: Path) -> dict[str, Any]:
    """The settings to vary, each as Optuna's distribution: a list of choices, or a range of numbers with
    `low` and `high`. Every value is held to what its flag takes."""
    known = {option.name for option in recipe_options()} - {"seed"}
    flags = argparse.ArgumentParser()
    add_options(flags)
    actions = {action.dest: action for action in flags._actions}
    found: dict[str, Any] = {}
    for name, values in read_config(path).items():
        field = str(name).replace("-", "_")
        if field not in known:
            what, remedy = f"{path} varies an unknown setting", ", ".join(sorted(known))
            raise UserError(what, seen=name, remedy=f"Known: {remedy}")
        try:
            found[field] = _distribution(actions[field], values)
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            what = f"{path} gives {name} invalid values"
            remedy = "Write [a, b] or {low: 1e-5, high: 1e-3, log: true}"
            raise UserError(what, seen=f"{values}: {error}", remedy=remedy) from error
    return found


def _distribution(action: argparse.Action, values: Any) -> Any:
    """ValueError, TypeError or ArgumentTypeError where `values` are neither choices nor a range."""
    from optuna import distributions

    if isinstance(values, list) and values:
        return distributions.CategoricalDistribution([_as_flag(action, value) for value in values])
    if not (isinstance(values, dict) and {"low", "high"} <= values.keys() <= RANGE):
        raise ValueError("neither choices nor a range")
    low, high = (_as_flag(action, values[end]) for end in ("low", "high"))
    step = values.get("step")
    log = values.get("log", False)
    if type(low) is int:
        return distributions.IntDistribution(low, high, log, step or 1)
    if type(low) is float:
        return distributions.FloatDistribution(low, high, log, step)
    raise ValueError("not a number")


def _as_flag(action: argparse.Action, value: Any) -> Any:
    """A value of the YAML as the flag would take it."""
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if value is None or isinstance(value, bool):
        raise ValueError("not a value that the flag takes")
    found = action.type(str(value)) if callable(action.type) else str(value)
    if action.choices and found not in action.choices:
        raise ValueError(f"choose from {', '.join(action.choices)}")
    return found


def open_study(options: argparse.Namespace, space: dict[str, Any], dataset: Dataset, chosen: Recipe) -> Any:
    """The study of this search, new or as it was left; `UserError` where it searched for something else."""
    import optuna

    options.output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(options.output / 'study.db').absolute()}",
        study_name="search",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=chosen.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        load_if_exists=True,
    )
    subject = {
        "space": {name: str(choices) for name, choices in space.items()},
        "data": dataset.sha256,
        "base": options.base,
        "recipe": dataclasses.asdict(chosen),
    }
    before = study.user_attrs.get("subject")
    if before is None:
        study.set_user_attr("subject", subject)
    elif before != subject:
        differing = ", ".join(name for name in subject if before.get(name) != subject[name])
        raise UserError(
            f"{options.output} holds a different search",
            seen=f"different {differing}",
            remedy="Choose another --output, or remove that folder",
        )
    _enqueue_interrupted(study)
    # A sampler that starts over with the same seed would propose what it has proposed before.
    study.sampler = optuna.samplers.TPESampler(seed=chosen.seed + len(study.trials))
    return study


def _enqueue_interrupted(study: Any) -> None:
    """Do again what was neither finished nor cut short, once each."""
    import optuna

    state = optuna.trial.TrialState
    for trial in study.get_trials(states=(state.RUNNING,)):  # killed
        study.tell(trial.number, state=state.FAIL)
    kept = [trial.params for trial in study.get_trials(states=(state.COMPLETE, state.PRUNED))]
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(states=(state.WAITING,))]
    for trial in study.get_trials(states=(state.FAIL,)):  # interrupted
        if trial.params and trial.params not in kept + waiting:
            study.enqueue_trial(trial.params)
            waiting.append(trial.params)


def _score(trial: Any, dataset: Dataset, chosen: Recipe, options: argparse.Namespace) -> float:
    """The macro-F1 on validation of the recipe with a trial's settings; raises `optuna.TrialPruned` where it
    is worse than the median at the same epoch."""
    import optuna
    from transformers import TrainerCallback

    from training import pipeline
    from training.measures.statistics import macro_f1_of_logits

    class Watch(TrainerCallback):
        before = last = 0.0  # epochs of the phases before, and of this one

        def on_train_begin(self, *args: Any, **kwargs: Any) -> Any:
            self.before, self.last = self.before + self.last, 0.0

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> Any:
            self.last = state.epoch
            trial.report(metrics["eval_macro_f1"], round(100 * (self.before + self.last)))
            if trial.should_prune():
                raise optuna.TrialPruned

    told = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    say(f"trial {trial.number}: {told}")
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        trained = pipeline.fitted(
            dataset,
            options.base,
            replace(chosen, **trial.params),
            Path(scratch) / "state",
            trust_remote_code=options.trust_remote_code,
            callbacks=[Watch()],
        )
    split = dataset.splits["validation"]
    # At the highest score, as in training: a fitted threshold would be judged on what it was fitted to.
    score = macro_f1_of_logits(trained.logits(split.texts), split.labels)
    say(f"trial {trial.number}: validation macro-F1 {score:.3f}")
    return score


def _finish(study: Any, options: argparse.Namespace, chosen: Recipe) -> None:
    """The table, the best recipe as YAML, and the picture."""
    complete = [trial for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]
    if not complete:
        raise UserError("no trial was completed", seen=len(study.trials), remedy="Widen the space")
    ordered = sorted(complete, key=lambda trial: -trial.value)
    rows = [{"trial": trial.number, **trial.params, "validation macro-F1": trial.value} for trial in ordered]
    say(tabulate(rows, headers="keys", floatfmt=".4g"))
    best = replace(chosen, **ordered[0].params)
    others = {
        name: value for name, value in vars(options).items() if name not in OURS and value not in (None, "")
    }
    given = others | {name: value for name, value in dataclasses.asdict(best).items() if value != ""}
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    place = options.output / "best.yaml"
    write_text(
        place,
        f"# The best of {len(study.trials)} trials: validation macro-F1 {ordered[0].value:.4f}.\n"
        + yaml.safe_dump(given, sort_keys=False),
    )
    pictures = " and ".join(_draw(study, options.output))
    say(f"train it: python -m training --config {place}; pictures: {pictures}")
    emit({"best": ordered[0].params, "macro_f1": ordered[0].value, "trials": rows, "config": str(place)})


def _draw(study: Any, folder: Path) -> list[str]:
    """Every trial's figure by each setting that was varied, and the best so far, as Optuna draws them."""
    import matplotlib
    import numpy as np
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization import matplotlib as plots

    matplotlib.use("agg")
    drawn = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, plot in (("search", plots.plot_slice), ("history", plots.plot_optimization_history)):
            found: Any = plot(study, target_name="validation macro-F1")
            axes = np.ravel(found)[0]  # of one setting it is no array
            axes.figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            matplotlib.pyplot.close(axes.figure)
            drawn.append(str(folder / f"{name}.png"))
    return drawn


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
