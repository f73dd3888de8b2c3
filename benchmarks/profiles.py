"""How thorough a run is: three named profiles, from a minute of demonstration to a quiet machine's hour.

Covers how often and how long each thing is measured. Leaves out what is measured: that is the same in
every profile, so that their reports have the same fields.
"""

from dataclasses import dataclass, replace

TEST = "test"
MANY_TEXTS = 64  # in one request, where requests of many texts are measured
MANY_CLIENTS = 4
OBJECTIVE_P99_MS = 50.0  # a served answer later than this is not a good one, unless a run says otherwise


@dataclass(frozen=True)
class Profile:
    """Counts and durations of one run; times in seconds or milliseconds as named.

    `rounds` are passes over all variants, each of which gets a turn of at least `turn_ms` on each fixed
    shape, and `single_texts` texts one by one and one batch of 32; a shape on which fp32's turn takes over
    `slow_turn_ms` joins every second round. After `least_rounds` of them they end when `latency_s` is over:
    each of twenty variants gets fewer turns than each of three. `splits` are scored for quality, at most
    `max_texts` of each.
    Besides fp32, the `served_best` fastest in process that are equal to it are served (None: all), `passes`
    times, at each of `concurrencies` for `served_s` in two visits, longer where answers are too few for a
    p99. `MANY_CLIENTS` ask with `MANY_TEXTS` a request, for `served_s`.
    In between requests arrive that do not wait, in visits of `open_s` (two where they can show that few are
    late) to each of `open_shares` of the rate that the variant reached at the highest concurrency, and to
    each of `extra_rates` (requests per second) exactly.
    `served_splits` are scored again through the server, about `served_texts` of each; None is all of them.
    """

    name: str
    rounds: int
    turn_ms: float
    slow_turn_ms: float
    least_rounds: int
    latency_s: float
    single_texts: int
    splits: tuple[str, ...]
    max_texts: int | None
    served_best: int | None
    passes: int
    concurrencies: tuple[int, ...]
    served_s: float
    open_shares: tuple[float, ...]
    open_s: float
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
            rounds=6,
            turn_ms=25,
            slow_turn_ms=300,
            least_rounds=6,
            latency_s=60,
            single_texts=17,  # 6 x 17: just enough texts for a p99
            splits=("gate",),
            max_texts=1000,
            served_best=2,
            passes=1,
            concurrencies=(1, 32),
            served_s=2.5,
            open_shares=(0.2, 0.4, 0.8),
            open_s=12,
            served_splits=("gate",),
            served_texts=256,
        ),
        Profile(
            name="quick",
            rounds=16,
            turn_ms=40,
            slow_turn_ms=400,
            least_rounds=6,
            latency_s=200,
            single_texts=34,  # 6 x 34: enough texts for a ratio of p99s
            splits=("gate",),
            max_texts=2000,
            served_best=3,
            passes=1,
            concurrencies=(1, 8, 32),
            served_s=5,
            open_shares=(0.15, 0.25, 0.4, 0.55, 0.8, 1.2),
            open_s=12,
            served_splits=("gate",),
            served_texts=2000,
        ),
        Profile(
            name="full",
            rounds=60,
            turn_ms=80,
            slow_turn_ms=2000,
            least_rounds=20,
            latency_s=3600,
            single_texts=40,
            splits=("gate", "test"),
            max_texts=None,
            served_best=None,
            passes=3,
            concurrencies=(1, 8, 32),
            served_s=15,
            open_shares=(0.15, 0.25, 0.4, 0.55, 0.7, 0.85, 1.2),
            open_s=15,
            served_splits=("gate", "test"),
            served_texts=None,
        ),
    )
}
