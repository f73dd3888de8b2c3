"""Figures of scores, as checkpoints and evaluations hold them."""

from common.records import Count, NotNegative, Record, Share, Some, Text


class Reliability(Record):
    """A bin of the score of the positive one of two labels (of the top label where there are more; of every
    score where labels are independent): its mean, and how often it was right."""

    score: Share
    rate: Share
    n: Some


class Rates(Record, kw_only=True):
    """Those of `metrics.evaluate`, without its labels: None where one is not defined. `macro_f1_low` and
    `macro_f1_high` are its 95 % interval, where it is known."""

    n: Some
    macro_f1: Share
    macro_f1_low: Share | None = None
    macro_f1_high: Share | None = None
    accuracy: Share
    auroc: Share | None
    average_precision: Share | None
    brier: NotNegative
    ece: Share


class LabelFigures(Record):
    precision: Share
    recall: Share
    f1: Share
    support: Count


class Figures(Rates):
    """`micro_f1` is that of independent labels."""

    labels: dict[str, LabelFigures]
    micro_f1: Share | None = None


class Functionality(Record):
    functionality: Text
    label: Text
    n: Some
    accuracy: Share
    reference_accuracy: Share
    flips: Count


class Gaps(Record):
    """AUCs of one group of people, or the best group's minus the worst's: background positive, subgroup
    negative and the other way round."""

    subgroup_auc: float | None
    bpsn_auc: float | None
    bnsp_auc: float | None


class Group(Gaps):
    group: Text
    n: Some


class Functional(Record):
    """A suite of functional cases; flips are cases that fp32 decides differently."""

    n: Some
    accuracy: Share
    reference_accuracy: Share
    flips: Count
    functionalities: list[Functionality]
    groups: list[Group]
    gaps: Gaps
