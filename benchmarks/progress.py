"""The progress bar of a run: what is being measured, and how much longer it will take.

Steps take very different times, so each counts as the seconds that it usually takes. This makes tqdm's
estimate of the time left useful.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from tqdm import tqdm

Step = Callable[[str], AbstractContextManager[None]]
"""`with step("quality of fp32"):` around each step; its first word names its kind."""

FORM = "{desc}{percentage:3.0f}%|{bar:30}| {elapsed} elapsed, {remaining} left"


@contextmanager
def progress(steps: Mapping[str, tuple[int, float]]) -> Iterator[Step]:
    """A bar on stderr for steps of several kinds: `{kind: (how many, usual seconds of one)}`."""
    total = sum(count * seconds for count, seconds in steps.values())
    with tqdm(total=total, bar_format=FORM, smoothing=0) as bar:

        @contextmanager
        def step(what: str) -> Iterator[None]:
            bar.set_description(what)
            yield
            _, seconds = steps[what.split()[0]]
            bar.update(min(seconds, total - bar.n))

        yield step
