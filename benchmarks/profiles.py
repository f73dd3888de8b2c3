"""How thorough a run is: three named profiles, from a minute's demonstration to an hour on a quiet machine.

Covers how often and for how long each thing is measured. What is measured is the same in every profile, so
their reports have the same fields.
"""

from dataclasses import dataclass, replace

TEST = "test"
MANY_TEXTS = 64  # in one request, where requests of many texts are measured
MANY_CLIENTS = 4
OBJECTIVE_P99_MS = 50.0  # a served answer later than this is not a good one, unless a run says otherwise


@dataclass(frozen=True)
class Profile:
    """Counts and durations of one run; times in seconds or milliseconds as named.

    In each of `blocks` all processes are restarted, and all rows take turns at each case, there and back, for
    about `sweep_s` and at least once: two calls of a fixed shape or of 32 texts, and `single_texts` texts
    one by one. Then rows that may still be chosen get more blocks on real texts, until their ratios are
    precise enough, `most_blocks` are reached or `latency_s` is over, including starts. The GEMM bound's
    products get `turn_ms`. `splits` are scored for quality, at most `max_texts` of each.
    Besides fp32, the `served_best` fastest in process that are equal to it are served (None: all), `passes`
    times, at each of `concurrencies` for `served_s` in two visits, longer if there are too few answers for a
    p99. `MANY_CLIENTS` send requests of `MANY_TEXTS` texts for `served_s`.
    In between come open loops, in visits of `open_s` (two if they can show that few requests are late) to
    each of `open_shares` of the rate that the variant reached at the highest concurrency, and to each of
    `extra_rates` (requests per second) exactly. Visits to a slow variant are up to three times as long, and
    to as many times fewer levels. The lowest level and `extra_rates` are visited for up to `open_most_s`,
    until it is known how many requests are late.
    `served_splits` are scored again through the server, about `served_texts` of each; None is all of them.
    """

    name: str
    blocks: int
    most_blocks: int
    sweep_s: float
    latency_s: float
    turn_ms: float
    single_texts: int
    splits: tuple[str, ...]
    max_texts: int | None
    served_best: int | None
    passes: int
    concurrencies: tuple[int, ...]
    served_s: float
    open_shares: tuple[float, ...]
    open_s: float
    open_most_s: float
    served_splits: tuple[str, ...]
    served_texts: int | None
    extra_rates: tuple[float, ...] = ()


def with_test(profile: Profile) -> Profile:
    """The same with the split that is for published figures alone."""
    splits = tuple(dict.fromkeys((*profile.splits, TEST)))
    return replace(profile, splits=splits, served_splits=splits)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="demo",
            blocks=3,
            most_blocks=8,
            sweep_s=1,
            latency_s=45,
            turn_ms=25,
            single_texts=20,
            splits=("gate",),
            max_texts=1500,
            served_best=2,
            passes=1,
            concurrencies=(1, 32),
            served_s=2.5,
            open_shares=(0.25,),
            open_s=6,
            open_most_s=18,
            served_splits=("gate",),
            served_texts=256,
        ),
        Profile(
            name="quick",
            blocks=4,
            most_blocks=20,
            sweep_s=4,
            latency_s=720,
            turn_ms=80,
            single_texts=25,
            splits=("gate",),
            max_texts=2000,
            served_best=3,
            passes=1,
            concurrencies=(1, 8, 32),
            served_s=5,
            open_shares=(0.15, 0.25, 0.4, 0.55, 0.8, 1.2),
            open_s=12,
            open_most_s=72,
            served_splits=("gate",),
            served_texts=2000,
        ),
        Profile(
            name="full",
            blocks=10,
            most_blocks=30,
            sweep_s=20,
            latency_s=5400,
            turn_ms=320,
            single_texts=50,
            splits=("gate", "test"),
            max_texts=None,
            served_best=None,
            passes=3,
            concurrencies=(1, 8, 32),
            served_s=15,
            open_shares=(0.15, 0.25, 0.4, 0.55, 0.7, 0.85, 1.2),
            open_s=15,
            open_most_s=90,
            served_splits=("gate", "test"),
            served_texts=None,
        ),
    )
}
