"""A video that a host has encoded: its visual tokens and the tokenized prompts of its questions.

Training on it needs neither the vision encoder nor the processor of the host.

Dimensions: T temporal steps, H W token grid, D width, E extra tokens outside the grid, L columns of the prefix,
R questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from framefold.data.question import Question
from framefold.errors import DataError

FORMAT = 1  # of the tensors and of the json fields other than the questions

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

INTEGERS = (torch.int32, torch.int64)

COLUMN = "columns."

DEEPSTACK = "deepstack."

MAX_NUMBER = 1 << 40  # larger token ids and positions in a file are invalid and could overflow


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """A video with questions, encoded by a host.

    All prompts start with the same prefix, which ends with the last placeholder of the video.

    Attributes:
        key: name, unique within its data set.
        questions: at least one; frame numbers in their evidence are steps of the grid.
        prompts: for each of R questions, the token ids between the last placeholder and the answer.
        replies: for each of R questions, the token ids of the answer.
        start: position of the first column after the prefix; later columns have consecutive positions.
        features: (T, H, W, D) visual tokens.
        extra: (E, D) tokens outside the grid.
        on_grid: (T*H*W + E,) bool; whether a placeholder, in the order of the prompt, stands for a token of the grid.
        times: (T,) float32 seconds, ascending.
        columns: further model inputs for the prefix, (L,) int64 each, ``input_ids`` among them.
        positions: (L,) or (axes, L) int64 positions of the columns of the prefix.
        deepstack: features (T, H, W, D) of further layers of the vision encoder.
        attention: (T, H, W) attention that the tokens received in the vision encoder, if it was stored.
        host: description of the host, as far as it is known.
    """

    key: str
    questions: tuple[Question, ...]
    prompts: tuple[tuple[int, ...], ...]
    replies: tuple[tuple[int, ...], ...]
    start: int
    features: Tensor
    extra: Tensor
    on_grid: Tensor
    times: Tensor
    columns: dict[str, Tensor]
    positions: Tensor
    deepstack: tuple[Tensor, ...] = ()
    attention: Tensor | None = None
    host: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of visual tokens of the grid; the index of its shard records it."""
        return self.features.shape[:3].numel()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names in the file."""
        named = {name: getattr(self, name) for name in ("features", "extra", "on_grid", "times")}
        named["positions"] = self.positions.to(torch.int32)
        named |= {f"{COLUMN}{name}": column.to(torch.int32) for name, column in self.columns.items()}
        named |= {f"{DEEPSTACK}{layer}": tensor for layer, tensor in enumerate(self.deepstack)}
        return named if self.attention is None else named | {"attention": self.attention}


def pack_encoded(sample: EncodedSample, metadata: Mapping[str, Any], dtype: torch.dtype) -> dict[str, bytes]:
    """Return the files of a sample by extension: safetensors with the tensors, and json with everything else.

    Args:
        sample: the encoded video.
        metadata: json of the video; its questions and times are replaced, other fields are copied.
        dtype: type in which features are stored.

    Raises:
        DataError: features are not finite, or not finite in that dtype.
    """
    wide = {"features", "extra", *(f"{DEEPSTACK}{layer}" for layer in range(len(sample.deepstack)))}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in wide else None).contiguous()
        for name, tensor in sample.tensors().items()
    }
    _check(sample.key, tensors)
    rows = zip(metadata["questions"], sample.questions, sample.prompts, sample.replies, strict=True)
    questions = [
        {**fields, "evidence": question.evidence, "prompt": prompt, "reply": reply}
        for fields, question, prompt, reply in rows
    ]
    encoded = {"format": FORMAT, "start": sample.start, "host": sample.host}
    fields = {**metadata, "questions": questions, "length": sample.length, "encoded": encoded}
    text = json.dumps({name: value for name, value in fields.items() if name != "times"}, separators=(",", ":"))
    return {"safetensors": save(tensors), "json": text.encode()}


def unpack_encoded(
    key: str, metadata: dict[str, Any], questions: tuple[Question, ...], safetensors: bytes
) -> EncodedSample:
    """Read a sample that :func:`pack_encoded` wrote; the files may be untrusted.

    Args:
        key: name of the sample.
        metadata: contents of its json file.
        questions: the questions in it.
        safetensors: contents of its safetensors file.

    Raises:
        DataError: unknown format, damaged file, inconsistent tensors, or numbers that are not finite.
    """
    encoded = metadata.get("encoded")
    version = encoded.get("format") if isinstance(encoded, dict) else None
    if not isinstance(encoded, dict) or version != FORMAT:
        raise DataError(f"{key}.json describes features of format {version!r}, this version reads {FORMAT}")
    try:
        rows = metadata["questions"]
        prompts, replies = (tuple(_token_ids(row[name]) for row in rows) for name in ("prompt", "reply"))
        start, host = _number(encoded["start"]), dict(encoded["host"])
        if not all(prompts):
            raise ValueError("a prompt has no token")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{key}.json does not follow format {FORMAT} of features: {error!r}") from error
    try:
        tensors = load(safetensors)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise DataError(f"{key}.safetensors is damaged: {error}") from error
    _check(key, tensors)
    layers = sum(name.startswith(DEEPSTACK) for name in tensors)
    return EncodedSample(
        key,
        questions,
        prompts,
        replies,
        start,
        **{name: tensors[name] for name in ("features", "extra", "on_grid", "times")},
        columns={name.removeprefix(COLUMN): t.long() for name, t in tensors.items() if name.startswith(COLUMN)},
        positions=tensors["positions"].long(),
        deepstack=tuple(tensors[f"{DEEPSTACK}{layer}"] for layer in range(layers)),
        attention=tensors.get("attention"),
        host=host,
    )


def _check(key: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise DataError unless all required tensors are present, consistent and finite."""
    problem = _name_problem(tensors) or _shape_problem(tensors) or _value_problem(tensors)
    if problem:
        raise DataError(f"{key}.safetensors: {problem}")


def _name_problem(tensors: Mapping[str, Tensor]) -> str:
    required = {"features", "extra", "on_grid", "times", "positions", f"{COLUMN}input_ids"}
    layers = [name for name in tensors if name.startswith(DEEPSTACK)]
    allowed = required | {"attention"} | {f"{DEEPSTACK}{layer}" for layer in range(len(layers))}
    unknown = [name for name in tensors if name not in allowed and not name.startswith(COLUMN)]
    if missing := sorted(required - tensors.keys()):
        return f"there is no {', '.join(missing)}"
    return f"unknown tensor {unknown[0]!r}" if unknown else ""


def _shape_problem(tensors: Mapping[str, Tensor]) -> str:
    features, extra = tensors["features"], tensors["extra"]
    if features.ndim != 4 or features.dtype not in DTYPES or not features.numel():
        return f"features must be (T, H, W, D) numbers, not {tuple(features.shape)} of {features.dtype}"
    grid, width, columns = tuple(features.shape[:3]), features.shape[3], tuple(tensors[f"{COLUMN}input_ids"].shape)
    extra_count = extra.shape[0] if extra.ndim == 2 else 0
    shapes = {"extra": (extra_count, width), "on_grid": (features[..., 0].numel() + extra_count,), "times": grid[:1]}
    for name, tensor in tensors.items():
        layer = name == "features" or name.startswith(DEEPSTACK)
        shape = tuple(features.shape) if layer else grid if name == "attention" else shapes.get(name, columns)
        dtypes = (features.dtype,) if layer or name == "extra" else _dtypes(name)
        axes = tensor.shape[-1:] if name == "positions" and tensor.ndim == 2 else tensor.shape
        if tuple(axes) != shape or tensor.dtype not in dtypes:
            return f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}, which does not fit {shape}"
    if len(columns) != 1 or not columns[0]:
        return f"input_ids must have shape (L,) with L > 0, not {columns}"
    on_grid = int(tensors["on_grid"].sum())
    return "" if on_grid == features[..., 0].numel() else f"{on_grid} placeholders do not fit a grid of {grid}"


def _dtypes(name: str) -> tuple[torch.dtype, ...]:
    if name == "on_grid":
        return (torch.bool,)
    return (torch.float32,) if name in ("times", "attention") else INTEGERS


def _value_problem(tensors: Mapping[str, Tensor]) -> str:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)  # one pass, no copy; NaN propagates
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                return f"{name} contains NaN or infinite values"
        elif tensor.numel() and int(tensor.min()) < 0:
            return f"{name} contains {int(tensor.min())}"
    times = tensors["times"]
    return "" if bool((times >= 0).all() and (times.diff() >= 0).all()) else "times are negative or do not ascend"


def _token_ids(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(_number(value) for value in values)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        raise ValueError(f"{value!r} is not a token id or position")
    return value
