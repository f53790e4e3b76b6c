"""Where and how a command computes: device, dtype, threads, seed. Chosen once, passed on, never global.

>>> choose(device="cpu", dtype="float32").dtype
torch.float32
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from .errors import UserError, nearest, printable

log = logging.getLogger("sonarllm")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALIASES = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A device, the dtype that weights and activations have on it, and the generator that samples."""

    device: torch.device
    dtype: torch.dtype
    seed: int | None = None
    int8: bool = False  # products are of int8; activations between them have `dtype`
    tf32: bool = False  # float32 products on a GPU read 10 bits of a fraction, not 23; sums keep all

    def use(self) -> Runtime:
        """Make float32 products on a GPU those of this runtime. PyTorch has one switch for the whole process: `choose`
        sets it, and who runs several runtimes in turns sets it again before each."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32  # convolutions, which have it on by default
        return self

    def generator(self) -> torch.Generator:
        """A fresh random generator on the device: seeded when a seed was given, else by the system."""
        generator = torch.Generator(device=self.device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 products; where it has not, they cost a hundred times those of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True


def name_of(device: torch.device) -> str:
    """What the device is called: a graphics card's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def choose(device: str = "auto", dtype: str = "auto", threads: int | None = None, seed: int | None = None) -> Runtime:
    """`auto` is the first GPU, else the CPU; float32 on a CPU, bfloat16 on a GPU that has it, else float16. `tf32` is
    float32 with faster, coarser products on a GPU.

    Raises UserError for a device or dtype that this machine has not.
    """
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"no device {device!r} here", "use --device cpu, or auto") from error
    if dtype == "auto":
        dtype = "float32"
        if place.type == "cuda":
            dtype = "bfloat16" if multiplies_bfloat16(place) else "float16"
    dtype = ALIASES.get(dtype, dtype)
    if dtype == "int8":
        if place.type != "cpu":
            raise UserError(f"int8 runs on a CPU, not on {device}", "use --dtype bfloat16, or --device cpu")
        return Runtime(device=place, dtype=torch.float32, seed=seed, int8=True).use()
    if dtype == "tf32":
        if place.type != "cuda":
            raise UserError(f"tf32 runs on a GPU, not on {device}", "use --dtype float32 or bfloat16")
        return Runtime(device=place, dtype=torch.float32, seed=seed, tf32=True).use()
    if dtype not in DTYPES:
        guess = nearest(dtype, [*DTYPES, *ALIASES, "tf32", "int8"])
        hint = f"did you mean {guess}? " if guess else ""
        raise UserError(f"unknown dtype {dtype!r}", f"{hint}use one of {', '.join(DTYPES)}, tf32, int8")
    if dtype == "bfloat16" and not multiplies_bfloat16(place):
        log.warning("no bfloat16 products here: they are far slower than those of float32 or int8")
    return Runtime(device=place, dtype=DTYPES[dtype], seed=seed).use()


def by_length(lengths: Sequence[int], size: int, cost: int | None = None) -> list[list[int]]:
    """Indices 0 … N−1 in batches of like length, longest first: at most `size` a batch and, with `cost`, at most
    `cost` padded tokens. Longest first, so that memory peaks at once and not after an hour."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        batch = batches[-1] if batches else None
        full = batch is None or len(batch) >= size or (cost and (len(batch) + 1) * lengths[batch[0]] > cost)
        if full:
            batches.append([i])
        else:
            batch.append(i)  # type: ignore[union-attr]
    return batches


def shrinking(run: Callable[[Sequence[Any]], list[T]], items: Sequence[Any]) -> list[T]:
    """`run(items)`, halving the batch for as long as the device runs out of memory."""
    try:
        return run(items)
    except torch.OutOfMemoryError:
        if len(items) < 2:
            raise
    log.info("out of memory with %d texts at once; trying half", len(items))
    torch.cuda.empty_cache()
    half = len(items) // 2
    return shrinking(run, items[:half]) + shrinking(run, items[half:])


def give_back() -> None:
    """Memory that the C library holds and nothing uses, to the system; nothing but in glibc.

    oneDNN keeps kernels of the shapes it met last, half a megabyte each in bfloat16: they come and go between the
    tensors of a training's steps, which are of ever other sizes, and the heap grows by the holes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def set_up_logging(quiet: bool = False) -> None:
    """Messages go to stderr, one line each, without decoration: data has stdout to itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.ERROR if quiet else logging.INFO)
    log.propagate = False
