"""What a shadow costs, and how soon it finds damaged versions, as a study found it: records and tables."""

from collections.abc import Mapping

from tabulate import tabulate

from common.records import Count, NotNegative, Positive, Record, Share, Some, Text

NAME = "shadow"  # of the file


class Cost(Record):
    """The app with a `shadow` or "none": latencies from the due times, and the CPUs that the shadow took."""

    shadow: Text
    answers: Count
    errors: Count
    p50_ms: NotNegative
    p99_ms: NotNegative
    p99_by_turn_ms: list[NotNegative]
    compared: Count
    dropped: Count
    shadow_cpus: NotNegative


class Damage(Record):
    """Noise of so many standard deviations of a layer's weights: the share of labels that then differ from
    those served, the part of these that goes one way, and how many texts were compared when the alarm came:
    off line (`alarms` is the share of orders that had one) and, if it was served, live."""

    noise: NotNegative
    texts: Some
    flips: Share
    one_way: Share
    alarms: Share
    median_texts: Count | None
    p90_texts: Count | None
    live_texts: Count | None = None


class Shadowed(Record):
    """All of it: `rate` requests a second, of which a `share` is compared, for `seconds` with the shadow and
    without it; `layer` is what was damaged."""

    served: Text
    machine: Mapping[str, str | int]
    rate: Positive
    seconds: Positive
    share: Share
    layer: Text
    costs: list[Cost]
    damages: list[Damage]


def page(found: Shadowed) -> str:
    """All of it as Markdown."""
    return f"# What a shadow costs and finds\n\n{excerpt(found)}\n"


def excerpt(found: Shadowed) -> str:
    """Both tables, and how to read them."""
    return f"{cost_table(found)}\n\n{damage_table(found)}\n\n{note(found)}"


def cost_table(found: Shadowed) -> str:
    rows = [
        (
            each.shadow,
            f"{each.answers:,}",
            each.errors,
            f"{each.p50_ms:.1f}",
            f"{each.p99_ms:.0f} ({min(each.p99_by_turn_ms):.0f} to {max(each.p99_by_turn_ms):.0f})",
            f"{each.compared:,}",
            each.dropped,
            f"{each.shadow_cpus:.2f}",
        )
        for each in found.costs
    ]
    heads = ("shadow", "answers", "errors", "p50, ms", "p99, ms (by turn)", "compared", "dropped", "CPUs")
    return tabulate(rows, heads, "github", disable_numparse=True)


def damage_table(found: Shadowed) -> str:
    rows = [
        (
            f"{each.noise:g}",
            f"{each.flips:.1%}",
            f"{each.one_way:.0%}",
            f"{each.alarms:.0%}",
            "" if each.median_texts is None else f"{each.median_texts:,}",
            "" if each.p90_texts is None else f"{each.p90_texts:,}",
            "" if each.live_texts is None else f"{each.live_texts:,}",
        )
        for each in found.damages
    ]
    heads = (
        "noise",
        "labels that differ",
        "most of them one way",
        "orders with an alarm",
        "after texts, half of orders",
        "nine in ten",
        "live",
    )
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(found: Shadowed) -> str:
    """How to read the tables."""
    texts = max((each.texts for each in found.damages), default=0)
    sentences = [
        f"{found.rate:g} requests a second, of which {found.share:.0%} are compared, for {found.seconds:g} s "
        "with the shadow and as long without it, in turns",
        f"Damaged versions are fp32 with noise on `{found.layer}`, in standard deviations of its weights",
        f"Off line, {texts:,} texts were compared in random orders",
        f"{found.served}; {found.machine['cpu']}, {found.machine['cores']} cores",
    ]
    return ". ".join(sentences) + "."
