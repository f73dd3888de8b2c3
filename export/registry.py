"""The registry of variants: each is one decorated function.

    @variant("openvino-int8", runtime="openvino", summary="…", requires=("openvino", "nncf"))
    def openvino_int8(source: Source, folder: Path) -> Built:
        ...write the model into folder...
        return Built(proof={"summary": "…", ...})

Requirements that this machine lacks are found before anything is built.
"""

import inspect
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.commands import did_you_mean
from common.environment import installed
from handler.batching import Grid
from handler.description import Device
from handler.errors import UnsupportedError, UserError
from handler.machine import cpu_features, gpus, unpacking_fault, unpacks_into

REFERENCE = "fp32"
DEFAULT = "default"
SHIP = "ship"
DEVICES = ("cpu", "cuda")
# What `ship` tries variants of several stages on: the first that can be built here. Two families would share
# the error that the gate may spend, and OpenVINO's was the faster one on every CPU that was measured.
SHIPPED = ("openvino", "onnx")
# What classifiers are made of, as far as variants care.
KINDS = {
    "encoder": "an encoder with the head that transformers has for it",
    "pooled": "an encoder with the project's own head (sentence embeddings, --pooling, --head)",
    "decoder": "a decoder language model",
}
ANY, TRACED = tuple(KINDS), ("encoder", "pooled")
SOURCE = ("torch", "transformers")  # of which every variant is made
COMMANDS = {"g++": "a C++ compiler (on Debian: apt-get install g++), and no space in the checkout's path"}
TEMPORARY = "a temporary folder to load libraries from"


@dataclass(frozen=True)
class Built:
    """What a variant's function reports: evidence from the runtime, and how the artifact is to be run.

    `proof["summary"]` is its gist in a few words, for tables. `grid` is for what wants other shapes than the
    source's; `exact_capability` is the GPU's compute capability, where what was compiled runs on no other.
    Without `needs_offsets`, its logits already give each label to as many texts as fp32's.
    """

    proof: dict[str, Any]
    runtime_options: dict[str, Any] = field(default_factory=dict)
    cpu_features: tuple[str, ...] = ()
    exact_capability: tuple[int, int] | None = None
    grid: Grid | None = None
    needs_offsets: bool = True


class RefusedError(UserError):
    """A variant that its own rule refuses: it could be built, but it would not help."""


@dataclass(frozen=True)
class Variant:
    """One way to make the classifier smaller or faster.

    `requires` names packages, commands, CPU features, or `cuda` (`cuda:8.9`: a GPU of that compute capability
    at least); `default` marks those that are built when none is named, `tried` those that `ship` builds
    besides, `demonstration` those that are built by their own name alone; `options` are the fields of
    `Source` that decide what comes out; `kinds` are those of `KINDS` that it can be made from; `also` are
    variants besides the parent whose artifacts it takes parts of.
    """

    name: str
    summary: str
    runtime: str
    build: Callable[..., Built]
    parent: str | None = REFERENCE
    also: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ("cpu",)
    requires: tuple[str, ...] = ()
    default: bool = False
    tried: bool = False
    demonstration: bool = False
    options: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("encoder",)

    @property
    def leaves(self) -> bool:
        """Whether it can leave named layers in float."""
        return "leave" in inspect.signature(self.build).parameters

    @property
    def capability(self) -> tuple[int, int]:
        """The least compute capability that a GPU must have; (0, 0) where any does, or none is needed."""
        return max((capability_of(need) for need in self.requires if _is_cuda(need)), default=(0, 0))

    def lacks(self) -> list[str]:
        """The `requires` that this machine lacks, in words; empty if it can be built."""
        return [_describe(need) for need in self.requires if not _present(need)]


VARIANTS: dict[str, Variant] = {}


def variant(
    name: str,
    *,
    parents: Sequence[str | None] = (REFERENCE,),
    requires: Sequence[str] = (),
    **properties: Any,
) -> Callable[..., Any]:
    """Register the decorated function as the variant `name`, and as `<parent>-<name>` for every other parent:
    it converts the model that its source holds. `properties` are those of `Variant`; all variants require
    `SOURCE`. `parents=(None,)` is only for the reference.

    A function that quantises may take a third argument, `leave`: the linear layers that stay in float.
    `build` adds layers to it until the check passes.
    """

    def register(build: Callable[..., Built]) -> Callable[..., Built]:
        for parent in parents:
            full = name if parent in (None, REFERENCE) else f"{parent}-{name}"
            if full in VARIANTS:
                raise ValueError(f"two variants are called {full}")
            own = properties | {"requires": (*SOURCE, *requires)}
            if parent not in (None, REFERENCE):  # by default, no child of what takes a training to make
                own["default"] = False
                own["tried"] = own.get("tried", False) and not parent.startswith("pruned")
            VARIANTS[full] = Variant(name=full, build=build, parent=parent, **own)
        return build

    return register


def kind_of(config: Mapping[str, Any]) -> str:
    """The kind of a classifier (`KINDS`), from its config.json."""
    if config["model_type"] != "pooled-classifier":
        return "encoder"
    return "decoder" if config["causal"] else "pooled"


def suits(variant: Variant, kind: str) -> bool:
    """Whether the variant, and what it is made from, can be made from that kind of classifier."""
    return all(kind in ancestor.kinds for ancestor in _lineage(variant))


def choose(
    names: Sequence[str], kind: str | None = None, unfit: Mapping[str, str] | None = None
) -> tuple[list[Variant], dict[str, list[str]]]:
    """The variants to build from a classifier of that kind (None: any), parents before children, and those
    left out with what they lack.

    Besides names, `default` (or nothing), `ship`, `all`, `cpu` and `cuda` (or `gpu`) stand for those variants
    that this machine can build, but for the `unfit`: by name, what they need of a classifier's texts. A
    variant that is named and cannot be built raises `UnsupportedError`; an unknown name raises `UserError`.
    """
    left_out: dict[str, list[str]] = {}
    chosen: dict[str, Variant] = {}
    for name in names or [DEFAULT]:
        group = _group(name)
        for candidate in [_find(name)] if group is None else group:
            lacking = _lacking(candidate, kind)
            if group is not None and candidate.name in (unfit or {}):
                lacking = [*lacking, (unfit or {})[candidate.name]]
            if lacking and group is None:
                name = "Install it, or name" if kind is None or suits(candidate, kind) else "Name"
                raise UnsupportedError(
                    f"{candidate.name} cannot be built here, because it needs",
                    seen="; ".join(lacking),
                    remedy=f"{name} others (python -m export --list, docs/variants.md)",
                )
            if lacking:
                left_out[candidate.name] = lacking
            else:
                chosen = {ancestor.name: ancestor for ancestor in _lineage(candidate)} | chosen
    if not chosen:
        reasons = "; ".join(f"{name} needs {', '.join(lacking)}" for name, lacking in left_out.items())
        raise UnsupportedError(
            f"no variant of {' '.join(names)} can be built here",
            seen=reasons or "no such variants",
            remedy="See python -m export --list for what they need",
        )
    return list(chosen.values()), left_out


def _lacking(variant: Variant, kind: str | None) -> list[str]:
    """What the variant and its ancestors need that this machine, or a classifier of that kind, lacks."""
    needs = [need for ancestor in _lineage(variant) for need in ancestor.lacks()]
    if kind is not None and not suits(variant, kind):
        needs.append(f"a classifier other than {KINDS[kind]}")
    return list(dict.fromkeys(needs))


def _group(name: str) -> list[Variant] | None:
    """The variants that a collective name stands for; None for any other name."""
    device = {"gpu": "cuda"}.get(name, name)
    default = [variant for variant in VARIANTS.values() if variant.default]
    if name == DEFAULT:
        return default
    if name == SHIP:
        tried = [variant for variant in VARIANTS.values() if variant.tried]
        able = {variant.runtime for variant in tried if not _lacking(variant, None)}
        runtime = next((runtime for runtime in SHIPPED if runtime in able), SHIPPED[0])
        return [*default, *(variant for variant in tried if variant.runtime == runtime)]
    if name == "all" or device in DEVICES:
        useful = [variant for variant in VARIANTS.values() if not variant.demonstration]
        return [variant for variant in useful if name == "all" or device in variant.devices]
    return None


def _find(name: str) -> Variant:
    if name not in VARIANTS:
        known = f"Known: {', '.join(VARIANTS)}; and {DEFAULT}, {SHIP}, all, cpu, gpu."
        remedy = known + did_you_mean(name, VARIANTS)
        raise UserError("there is no such variant", seen=name, remedy=remedy)
    return VARIANTS[name]


def _lineage(variant: Variant) -> list[Variant]:
    """The variant and what it is made from, eldest first; fp32, the reference of every check, among them."""
    above = [] if variant.parent is None else [variant.parent, *variant.also]
    found = [ancestor for name in above for ancestor in _lineage(_find(name))]
    return [*{ancestor.name: ancestor for ancestor in found}.values(), variant]


def capability_of(need: str) -> tuple[int, int]:
    """(8, 9) for `cuda:8.9`, (0, 0) for `cuda`."""
    major, _, minor = need.partition(":")[2].partition(".")
    return int(major or 0), int(minor or 0)


def _is_cuda(need: str) -> bool:
    return need.partition(":")[0] == "cuda"


def _present(need: str) -> bool:
    if need in COMMANDS:
        # torch hands the compiler its own folders unquoted: a space in their path breaks the command
        return shutil.which(need) is not None and " " not in sys.prefix
    if need == TEMPORARY:
        return unpacking_fault() is None
    if need.startswith("cpu:"):
        return need.removeprefix("cpu:") in cpu_features()
    if _is_cuda(need):
        first = gpus()[:1]  # which variants are made on
        return any(gpu.capability >= capability_of(need) for gpu in first)
    return bool(installed([need]))


def _describe(need: str) -> str:
    if _is_cuda(need):
        least = need.removeprefix("cuda").replace(":", " of compute capability ")
        return f"an NVIDIA GPU{least}{' or later' if least else ''}, and a torch built for it"
    if need.startswith("cpu:"):
        return f"a CPU with {need.removeprefix('cpu:')}"
    if need == TEMPORARY:
        return f"{need}, as {unpacks_into()} is not ({unpacking_fault()}); set TMPDIR"
    return COMMANDS.get(need, f"the Python package {need}")
