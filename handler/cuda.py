"""What computing on an NVIDIA GPU takes besides the model: the right card, copies that do not wait, whole
calls recorded as CUDA graphs, and texts without padding.

Everything but the graphs runs on the CPU too, where the tests run it.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from handler.batching import Forward
from handler.description import Description
from handler.errors import UnsupportedError
from handler.machine import Gpu, gpus

if TYPE_CHECKING:
    import torch

    from handler.encoder import Encoder

# What a shape is run for before its graph is captured: kernels are loaded and chosen, workspaces allocated.
# torch's documentation ("CUDA Graphs", torch.cuda.make_graphed_callables) takes three.
WARM_UPS = 3
# Arrays of integers begin at multiples of so many elements: kernels that were compiled for aligned inputs, as
# those of the example were, do not look again.
ALIGNED = 16


def choose_device(meta: Description, asked: str | None = None) -> str:
    """The device that the artifact described by `meta` computes on: "cpu", or "cuda:0" and so on.

    Raises `UnsupportedError` where that is not the kind of device it was made for, where there is no such
    GPU, or where its compute capability is not the one that the artifact needs.
    """
    kind, _, index = (asked or meta.devices[0]).partition(":")
    if kind not in meta.devices or not (index or "0").isdecimal() or (kind == "cpu" and index):
        raise UnsupportedError(
            f"the artifact {meta.name} does not run on this device",
            seen=asked,
            remedy=f"It was made for {' or '.join(meta.devices)}: choose a variant made for your device",
        )
    if kind == "cpu":
        return kind
    present = gpus()
    place = int(index or 0)
    if place >= len(present):
        raise UnsupportedError(
            f"the artifact {meta.name} cannot run on a GPU that does not exist",
            seen=f"cuda:{place}; torch sees {len(present)}, counted from 0",
            remedy="Choose another device, or check CUDA_VISIBLE_DEVICES and nvidia-smi",
        )
    if reason := misfit(meta, present[place]):
        raise UnsupportedError(
            f"the artifact {meta.name} does not run on this GPU",
            seen=f"cuda:{place}, {reason}",
            remedy="Build it on this kind of machine, or serve a less demanding variant, such as fp32",
        )
    return f"cuda:{place}"


def misfit(meta: Description, gpu: Gpu) -> str | None:
    """Why the artifact described by `meta` does not run on `gpu`, in words; None where it does."""
    needed = tuple(meta.cuda_capability or (0, 0))
    exact = meta.cuda_capability_exact
    if gpu.capability == needed or (gpu.capability > needed and not exact):
        return None
    has, needs = (".".join(map(str, capability)) for capability in (gpu.capability, needed))
    return f"{gpu.name} has compute capability {has}, and it needs {needs}{'' if exact else ' or later'}"


def set_kernels(tf32: bool) -> None:
    """Which kernels torch may choose on a GPU, for the whole process.

    `tf32`: whether products of fp32 round their factors to TensorFloat-32. Said for every artifact: torch's
    own default may change, and TorchServe's BaseHandler turns it on when it is imported. By the older
    interface, since TorchServe uses that: torch refuses to compute where the two say different things (seen
    in torch 2.13).

    cuDNN's attention is left out: it makes a plan for every shape that it has not seen, which others report
    as 0.4 s each (modelscope/FunASR, issue 3704), and lengths vary here. Flash and memory-efficient attention
    stay. None of it was tried.
    """
    import torch

    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.enable_cudnn_sdp(False)


class Staging:
    """Arrays of integers to the device, all in one copy that the host does not wait for.

    They are laid side by side in one buffer of pinned memory, which the GPU reads by itself. The buffer is
    written again by the next call: whoever calls must have waited for the device before, as everybody does
    who has fetched its logits. On the CPU the buffer is ordinary memory, and what is returned lies in it.
    """

    def __init__(self, device: str, dtype: "torch.dtype | None" = None) -> None:
        import torch

        self.device = torch.device(device)
        self.dtype = dtype or torch.int64
        self._buffer = self._allocate(0)

    def _allocate(self, size: int) -> "torch.Tensor":
        import torch

        return torch.empty(size, dtype=self.dtype, pin_memory=self.device.type == "cuda")

    def fill(self, *arrays: np.ndarray) -> "torch.Tensor":
        """The part of the buffer in which `arrays` now lie, flat, each in `_room` of its own."""
        size = sum(_room(array) for array in arrays)
        if size > len(self._buffer):
            self._buffer = self._allocate(2 * size)
        filled = self._buffer[:size]
        flat = filled.numpy()
        place = 0
        for array in arrays:
            flat[place : place + array.size] = array.ravel()
            place += _room(array)
        return filled

    def __call__(self, *arrays: np.ndarray) -> "list[torch.Tensor]":
        """Tensors on the device, of the shapes of `arrays`."""
        sent = self.fill(*arrays).to(self.device, non_blocking=True)
        parts = sent.split([_room(array) for array in arrays])
        return [part[: array.size].view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _room(array: np.ndarray) -> int:
    """Elements that `array` takes up, so that the next begins aligned."""
    return -(-array.size // ALIGNED) * ALIGNED


def staged(model: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]", device: str) -> Forward:
    """`model(input_ids, attention_mask) -> logits` on `device` as a `Forward`."""
    import torch

    send = Staging(device)

    def forward(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            # .cpu() is the one wait of a call.
            return model(*send(input_ids, attention_mask)).float().cpu().numpy()

    return forward


class Graphs:
    """`model` on a GPU, each shape recorded once as a CUDA graph and then replayed as a whole: the host
    starts one graph instead of some sixty kernels. `replays` counts.

    A graph holds for one shape, and each takes a second or less to record and memory to keep. So only
    `shapes` are taken, and another is refused: the plan makes no others, and to record whatever comes would
    grow without bound, to run it without a graph would be slow and say nothing.

    All share one pool of memory (torch: "Sharing memory across captures"), which is safe since they are
    replayed one after the other and their logits are fetched before the next begins.
    """

    def __init__(
        self,
        model: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]",
        device: str,
        shapes: Collection[tuple[int, int]],
    ) -> None:
        import torch

        self._model = model
        self._shapes = frozenset(shapes)
        self._device = torch.device(device)
        self.replays = 0
        self._staging = Staging(device)
        # One stream for all captures: torch reuses the pool's memory for the stream that it was made on.
        self._stream = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[tuple[int, int], tuple[Any, torch.Tensor, torch.Tensor]] = {}

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        import torch

        batch, length = input_ids.shape
        if (batch, length) not in self._shapes:
            raise ValueError(f"no CUDA graph is recorded for {batch} texts of {length} tokens")
        with torch.inference_mode():
            if (batch, length) not in self._recorded:
                self._recorded[batch, length] = self._record(batch, length)
            graph, inputs, logits = self._recorded[batch, length]
            filled = self._staging.fill(np.stack([input_ids, attention_mask]))
            inputs.copy_(filled[: inputs.numel()].view_as(inputs), non_blocking=True)
            graph.replay()
            self.replays += 1
            return logits.cpu().numpy()

    def _record(self, batch: int, length: int) -> "tuple[Any, torch.Tensor, torch.Tensor]":
        """The graph of that shape, what it reads (int64 [2, batch, length]), and what it writes."""
        import torch

        with torch.cuda.device(self._device):
            inputs = torch.ones(2, batch, length, dtype=torch.int64, device=self._device)
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    self._model(*inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                logits = self._model(*inputs).float()
        return graph, inputs, logits


def packed(encoder: "Encoder", device: str) -> Forward:
    """`encoder` on texts without their padding, which is dropped here, on the host."""
    import torch

    send = Staging(device, torch.int32)  # of starts, varlen_attn takes int32 alone

    def forward(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        real = attention_mask.astype(bool)
        lengths = real.sum(axis=1)
        starts = np.concatenate([[0], lengths.cumsum()])
        places = encoder.positions(torch.from_numpy(input_ids)).numpy()
        with torch.inference_mode():
            tokens, positions, begun = send(input_ids[real], places[real], starts)
            return encoder.packed(tokens, positions, begun, int(lengths.max())).float().cpu().numpy()

    return forward
