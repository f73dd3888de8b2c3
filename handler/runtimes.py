"""How an artifact runs: one record for each runtime, each heavy import inside the loader that needs it.

A loader takes the artifact, a thread count and a device and returns `Forward`. What GPUs need is in `cuda`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from handler.artifact import Artifact, read_json
from handler.batching import Forward
from handler.cuda import Graphs, packed, set_kernels, staged
from handler.errors import UnsupportedError, UserError, first_line
from handler.machine import unpacking_fault, unpacks_into
from handler.stages import Model, Stage, artifact_of, stages_of

# What an artifact may ask of a runtime. It comes from elsewhere: an option that names a library or a place to
# write is none of these.
DTYPES = ("float32", "bfloat16", "float16")
PROVIDERS: dict[str, frozenset[str]] = {
    "CPUExecutionProvider": frozenset(),
    "CUDAExecutionProvider": frozenset(),
    "TensorrtExecutionProvider": frozenset(
        {
            "trt_fp16_enable",
            "trt_engine_cache_enable",
            "trt_engine_cache_path",
            "trt_profile_min_shapes",
            "trt_profile_opt_shapes",
            "trt_profile_max_shapes",
        }
    ),
}
PROPERTIES = frozenset({"INFERENCE_PRECISION_HINT"})  # of OpenVINO
# Of a config.json: Python to run, kernels to download, and weights in others' formats.
RUNS_CODE = frozenset({"auto_map", "attn_implementation", "quantization_config", "custom_pipelines"})
LABELS = ("id2label", "label2id")  # keys of a config.json whose own keys are the user's
# Threads of one call wait for each other at every layer, the longer the more others want their cores. Two
# calls of one thread each, side by side, answer 1.15 to 1.35 times as many real texts as calls of two threads
# (OpenVINO, int8, 32 texts, 2 cores). Each stream holds the weights once more.
MOST_STREAMS = 4


@dataclass(frozen=True)
class Runtime:
    """`packages` are what it needs next to numpy and tokenizers, and their versions that were tested; `image`
    is the group of packages (pyproject.toml) of the image that serves it; `compiles_per_shape` asks for
    warm-up; `has_streams` says that calls may run side by side on a CPU."""

    load: Callable[[Artifact, int, str], Forward]
    packages: Mapping[str, str]
    image: str
    compiles_per_shape: bool = False
    has_streams: bool = False

    def model(self, artifact: Artifact, threads: int, device: str, stage: Stage | None = None) -> Model:
        """The artifact, loaded."""
        forward = self.load(artifact, threads, device)
        count = min(threads, MOST_STREAMS) if self.has_streams and device == "cpu" else 1
        shares = [threads // count + (place < threads % count) for place in range(count)] if count > 1 else []
        streams = [self.load(artifact, share, device) for share in shares]
        return Model(artifact.meta, forward, stage, streams)


def load_models(artifact: Artifact, threads: int, device: str) -> list[Model]:
    """Load the artifact into its runtime, computing with `threads` threads on `device`: its one model, or
    those of its stages in their order."""
    runtime = RUNTIMES.get(artifact.meta.runtime)
    if runtime is None:
        raise UserError(
            f"the artifact {artifact.name} needs an unknown runtime",
            seen=artifact.meta.runtime,
            remedy=f"This version supports {', '.join(RUNTIMES)}: build the artifact again with it",
        )
    try:
        stages = stages_of(artifact.meta)
        if not stages:
            return [runtime.model(artifact, threads, device)]
        return [runtime.model(artifact_of(artifact, stage), threads, device, stage) for stage in stages]
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the runtime {artifact.meta.runtime} of {artifact.name} is not installed",
            seen=error.name,
            remedy=f"Install it: pip install {' '.join(runtime.packages)}",
        ) from error
    except ImportError as error:  # a library that the system lacks, or an environment mounted noexec
        raise UnsupportedError(
            f"the runtime {artifact.meta.runtime} of {artifact.name} is installed but cannot be loaded",
            seen=first_line(error),
            remedy="Install the library that it names, or move the environment to a disk not mounted noexec",
        ) from error
    except Exception as error:  # each runtime has exceptions of its own for a file that it cannot read
        raise UserError(
            f"the runtime {artifact.meta.runtime} cannot load {artifact.name}",
            seen=f"{type(error).__name__}: {first_line(error)}",
            remedy="Build it again on this kind of machine, with these versions: python -m export build",
        ) from error


def prepares_every_shape(artifact: Artifact) -> bool:
    """Whether the first call of each shape costs more than those that follow."""
    runtime = RUNTIMES[artifact.meta.runtime]
    return runtime.compiles_per_shape or artifact.meta.runtime_options.get("graphs", False)


def _load_torch(artifact: Artifact, threads: int, device: str) -> Forward:
    """Eager PyTorch: a transformers folder (config.json, model.safetensors), or weights of an `Encoder`."""
    if "encoder" in artifact.meta.runtime_options:
        return _load_encoder(artifact, threads, device)
    import torch

    from handler.pooled_classifier import read_classifier

    torch.set_num_threads(threads)
    options = artifact.meta.runtime_options
    _allow("dtype", {options["dtype"]} - set(DTYPES))
    refuse_code(artifact.folder)
    if "int8_linears" in options:
        model = load_torch_int8(artifact.folder, options["int8_linears"])
    else:
        model = read_classifier(artifact.folder).to(getattr(torch, options["dtype"]))
    if device != "cpu":
        set_kernels(options.get("tf32", False))
    model = model.to(device)
    model = with_sparse_linears(model, options.get("sparse_linears", ()))
    forward = staged(lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits, device)
    if options["dtype"] == "float32" and "int8_linears" not in options:
        forward.model = model  # type: ignore[attr-defined] # functions may have attributes
    return forward


def _allow(what: str, unknown: Collection[str]) -> None:
    if unknown:
        raise UserError(
            f"the artifact asks for a {what} that this version does not support",
            seen=", ".join(map(str, sorted(unknown)))[:200],
            remedy="Build the artifact with this version: python -m export build",
        )


def refuse_code(folder: Path) -> None:
    """`UserError` where transformers would run or fetch code, or weights, from outside the model's `folder`.

    For a backbone with code of its own `pooled_classifier` asks the user's consent.
    """
    file, adapter = folder / "config.json", folder / "adapter_config.json"
    try:
        asked = sorted(_asks_for_code(read_json(file)))
    except (OSError, ValueError) as error:
        what, remedy = "the model's configuration cannot be read", "Build or train the model again"
        raise UserError(what, seen=f"{file}: {error}", remedy=remedy) from error
    if asked:
        raise UserError(
            "the model's configuration asks for foreign code, which is never run",
            seen=f"{file}: {', '.join(asked)}",
            remedy="Build the model here from its checkpoint, or train it again",
        )
    if adapter.exists():
        raise UserError(
            "the model's folder contains an adapter, which would change the model's answers",
            seen=adapter,
            remedy="Remove it: training and export merge adapters into the model",
        )


def _asks_for_code(config: dict[str, Any], known: Collection[str] = ()) -> set[str]:
    """Which of `RUNS_CODE` it asks for, at any depth."""
    asked = {key for key in config if key.removeprefix("_").removesuffix("_internal") in RUNS_CODE}
    for key, part in config.items():
        if isinstance(part, dict) and key not in LABELS:
            asked |= _asks_for_code(part, {"auto_map"} if key == "backbone" else ())
    return asked - set(known)


def with_sparse_linears(model: Any, names: Sequence[str]) -> Any:
    """`model`, on a GPU, with the named linear layers' weights as sparse tensor cores want them: of every
    four two are zero. Changed in place."""
    import torch

    for name in names:
        linear = model.get_submodule(name)
        halved = torch.sparse.to_sparse_semi_structured(linear.weight.detach())
        linear.weight = torch.nn.Parameter(halved, requires_grad=False)
    return model


def _load_encoder(artifact: Artifact, threads: int, device: str) -> Forward:
    """Eager PyTorch with the project's own encoder: padded, packed, or as CUDA graphs."""
    import torch

    torch.set_num_threads(threads)
    options = artifact.meta.runtime_options
    encoder = read_encoder(artifact.folder, options, device)
    if options.get("packed"):
        return packed(encoder, device)
    if options.get("graphs"):
        return Graphs(encoder, device, artifact.grid.shapes())
    return staged(encoder, device)


def read_encoder(folder: Path, options: Mapping[str, Any], device: str) -> Any:
    """The `Encoder` in an artifact's folder; on a GPU its `options` say which kernels run."""
    from safetensors.torch import load_file

    from handler.encoder import Anatomy, Encoder

    if device != "cpu":
        set_kernels(options.get("tf32", False))
    return Encoder(Anatomy.of(options["encoder"]), load_file(folder / "model.safetensors", device))


def load_torch_int8(folder: Path, int8_linears: Sequence[str]) -> Any:
    """A model whose named linear layers are torch's dynamic int8 ones, from int8 tensors and their scales.

    torch itself would pickle them; safetensors hold nothing that runs.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForSequenceClassification

    weights = load_file(folder / "model.safetensors")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    biases = {name: weights.pop(f"{name}.bias", None) for name in int8_linears}
    packed = {name: (weights.pop(f"{name}.weight"), weights.pop(f"{name}.weight_scales")) for name in biases}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or {name.rpartition(".")[0] for name in missing} != set(packed):
        raise UserError("the artifact's weights do not fit its model", seen=folder, remedy="Build it again")
    for name, (weight, scales) in packed.items():
        outputs, inputs = weight.shape
        linear = torch.ao.nn.quantized.dynamic.Linear(inputs, outputs, bias_=biases[name] is not None)
        zero_points = torch.zeros(outputs, dtype=torch.int64)
        quantised = torch._make_per_channel_quantized_tensor(weight, scales, zero_points, 0)
        linear.set_weight_bias(quantised, biases[name])
        model.set_submodule(name, linear)
    return model


def _load_compiled(artifact: Artifact, threads: int, device: str) -> Forward:
    """An AOTInductor package: machine code for dynamic batch and length, no Python model, no recompiling."""
    import torch

    torch.set_num_threads(threads)
    index = -1
    if device != "cpu":
        set_kernels(artifact.meta.runtime_options.get("tf32", False))
        index = int(device.removeprefix("cuda:"))
    package = artifact.folder / "model.pt2"
    try:
        loader = torch._inductor.aoti_load_package(str(package), device_index=index).loader
    except RuntimeError as error:
        size = package.stat().st_size
        if fault := unpacking_fault(size):
            raise UnsupportedError(
                "a compiled artifact cannot be loaded from the temporary folder",
                seen=f"{unpacks_into()}, {fault}",
                remedy=f"Set TMPDIR to a folder with {size / 1e6:.0f} MB free, not mounted noexec",
            ) from error
        raise
    # Not the package itself, which reads how its inputs nest from JSON again at every call: of one short text
    # on a CPU that was 0.2 ms of 2.7.
    return staged(lambda ids, mask: loader.boxed_run([ids, mask])[0], device)


def _load_onnx(artifact: Artifact, threads: int, device: str) -> Forward:
    model = artifact.folder / "model.onnx"
    options = artifact.meta.runtime_options
    session = onnx_session(model, options, threads, device=device)

    def forward(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        (logits,) = session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})
        return np.asarray(logits)

    return forward


def onnx_session(
    model: Path,
    options: dict[str, Any],
    threads: int,
    *,
    device: str = "cpu",
    executed: Path | None = None,
    profile: Path | None = None,
) -> Any:
    """`onnxruntime.InferenceSession` as it is served; export has it write the graph that it executes, or what
    executed each node, to the file `profile`.

    `options["providers"]` are [name, its own options] in the order of preference; a path of theirs that ends
    in `_path` is below the model's folder. Raises `UnsupportedError` where the first does not run.
    """
    import onnxruntime

    wanted_providers = options.get("providers", [["CPUExecutionProvider", {}]])
    for name, own in wanted_providers:
        _allow("provider", {name} - PROVIDERS.keys())
        _allow("provider's option", own.keys() - PROVIDERS[name])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # Spinning threads steal the cores of the server's JVM between two requests.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    if executed is not None:
        settings.optimized_model_filepath = str(executed)
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile)
    providers = [(name, _provider_options(own, model.parent, device)) for name, own in wanted_providers]
    wanted = providers[0][0]
    if "CUDAExecutionProvider" in dict(providers) and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries, from where pip put them
    session = onnxruntime.InferenceSession(
        model, settings, providers=providers, disabled_optimizers=options.get("disabled_optimizers")
    )
    # What it cannot load it leaves out with a line in its log, and goes on.
    if (running := session.get_providers()[0]) != wanted:
        raise UnsupportedError(
            f"ONNX Runtime does not run on {wanted} here",
            seen=f"{running}; installed with {', '.join(onnxruntime.get_available_providers())}",
            remedy="pip uninstall onnxruntime; pip install onnxruntime-gpu (for TensorRT, tensorrt as well)",
        )
    return session


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _provider_options(own: dict[str, str], folder: Path, device: str) -> dict[str, str]:
    """An execution provider's options as this machine needs them."""
    paths = {name: str(folder / value) for name, value in own.items() if name.endswith("_path")}
    _allow("folder", [path for path in paths.values() if not _is_below(Path(path), folder)])
    return own | paths | ({} if device == "cpu" else {"device_id": device.removeprefix("cuda:")})


# Pinned to cores, two workers of one thread both compute on the first one, at half the speed. So do, at one
# start in ten, the two threads of a model with several stages.
OPENVINO = {"NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "NO"}


def _load_openvino(artifact: Artifact, threads: int, device: str) -> Forward:
    request = compile_openvino(
        artifact.folder / "model.xml", artifact.meta.runtime_options, threads
    ).create_infer_request()

    def forward(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        outputs = request.infer({"input_ids": input_ids, "attention_mask": attention_mask}, share_inputs=True)
        return np.array(outputs[0], dtype=np.float32)

    # A process's first call sets up OpenVINO's binding to numpy. Two threads that come to it at once wait for
    # each other for ever (OpenVINO 2026.4).
    smallest = np.ones((1, artifact.grid.lengths[0]), np.int64)
    forward(smallest, smallest)
    return forward


def compile_openvino(model: Any, options: dict[str, Any], threads: int) -> Any:
    """`openvino.CompiledModel` as it is served; export asks it which precision it executes."""
    _allow("property", options.keys() - PROPERTIES)
    properties = OPENVINO | {"INFERENCE_NUM_THREADS": str(threads)} | options
    return _openvino_core().compile_model(model, "CPU", properties)


@cache
def _openvino_core() -> Any:
    """One for the process, for good. On AMX each gives its thread a stack for signals, and puts the one
    before back when it goes: if an older one has gone before it, that stack is freed memory, and the next
    signal that Python handles (SIGTERM, Ctrl-C) is a segmentation fault (OpenVINO 2026.4)."""
    import openvino

    return openvino.Core()


TORCH, TRANSFORMERS = {"torch": "2.13.0"}, {"transformers": "4.57"}
# All that the project knows of a runtime: doctor, images, reports' versions and tests follow from it.
RUNTIMES = {
    "torch": Runtime(_load_torch, TORCH | TRANSFORMERS, "torch"),
    "compiled": Runtime(_load_compiled, TORCH, "torch"),
    "onnx": Runtime(_load_onnx, {"onnxruntime": "1.31"}, "onnx", has_streams=True),
    "openvino": Runtime(
        _load_openvino, {"openvino": "2026.4"}, "openvino", compiles_per_shape=True, has_streams=True
    ),
}
IMAGES = sorted({runtime.image for runtime in RUNTIMES.values()})
PACKAGES = {name: tested for runtime in RUNTIMES.values() for name, tested in runtime.packages.items()}
