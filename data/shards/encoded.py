"""A sample that a host has encoded: its visual tokens, and the prompts of its questions as the host's processor writes
them. Neither the vision side nor the processor is needed to train on it.

Dimensions: T steps in time, H W token grid, D width, E tokens beside the grid, L columns of the prefix, R questions.
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

FORMAT = 1  # of the tensors and of what the json says beside the questions

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

INTEGERS = (torch.int32, torch.int64)

COLUMN = "columns."

DEEPSTACK = "deepstack."

LONGEST = 1 << 40  # a number of a file that is larger is nonsense, and must not overflow anything


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """What a host has made of a video with questions about it.

    All prompts begin with the same prefix, which ends with the last placeholder of the video.

    Attributes:
        key: name, unique within its data set.
        questions: at least one; frames in their evidence are steps of the grid.
        prompts: R times the token ids between the last placeholder and the answer.
        replies: R times the token ids of the answer, as the host would write it behind the prompt.
        start: position of the column behind the prefix; positions go on from there one by one.
        features: (T, H, W, D). extra: (E, D) tokens beside the grid.
        on_grid: (T*H*W + E,) bool over the placeholders in the order of the prompt: is it filled from the grid?
        deepstack: features (T, H, W, D) of further layers.
        times: (T,) float32 seconds, ascending.
        columns: values of each column of the prefix, (L,) int64: ``input_ids``, and others that the host is given.
        positions: (L,) or (axes, L) int64 positions of the columns of the prefix.
        attention: (T, H, W) that the tokens received in the vision encoder, where it was kept.
        host: which one it was, as far as it is known.
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
        """Visual tokens of the grid, as the index of its shard counts them."""
        return self.features.shape[:3].numel()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that they are stored under."""
        named = {name: getattr(self, name) for name in ("features", "extra", "on_grid", "times")}
        named["positions"] = self.positions.to(torch.int32)
        named |= {f"{COLUMN}{name}": column.to(torch.int32) for name, column in self.columns.items()}
        named |= {f"{DEEPSTACK}{layer}": tensor for layer, tensor in enumerate(self.deepstack)}
        return named if self.attention is None else named | {"attention": self.attention}


def pack_encoded(sample: EncodedSample, notes: Mapping[str, Any], dtype: torch.dtype) -> dict[str, bytes]:
    """The files of one sample: safetensors, and json with the rest.

    Args:
        notes: of the video; questions and times are replaced, what else there is stays.
        dtype: that features are stored in.

    Raises:
        DataError: features that are not finite, or such as the dtype cannot hold.
    """
    wide = {"features", "extra", *(f"{DEEPSTACK}{layer}" for layer in range(len(sample.deepstack)))}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in wide else None).contiguous()
        for name, tensor in sample.tensors().items()
    }
    _check(sample.key, tensors)
    asked = zip(notes["questions"], sample.questions, sample.prompts, sample.replies, strict=True)
    questions = [
        {**fields, "evidence": question.evidence, "prompt": prompt, "reply": reply}
        for fields, question, prompt, reply in asked
    ]
    encoded = {"format": FORMAT, "start": sample.start, "host": sample.host}
    told = {**notes, "questions": questions, "length": sample.length, "encoded": encoded}
    text = json.dumps({name: value for name, value in told.items() if name != "times"}, separators=(",", ":"))
    return {"safetensors": save(tensors), "json": text.encode()}


def unpack_encoded(
    key: str, notes: dict[str, Any], questions: tuple[Question, ...], safetensors: bytes
) -> EncodedSample:
    """Read a sample that :func:`pack_encoded` wrote; files may be of anyone's making.

    Raises:
        DataError: another format, damaged, tensors that do not fit each other, or numbers that are not finite.
    """
    encoded = notes.get("encoded")
    found = encoded.get("format") if isinstance(encoded, dict) else None
    if not isinstance(encoded, dict) or found != FORMAT:
        raise DataError(f"{key}.json describes features of format {found!r}, this version reads {FORMAT}")
    try:
        prompts, replies = (tuple(_ids(fields[name]) for fields in notes["questions"]) for name in ("prompt", "reply"))
        start, host = _number(encoded["start"]), dict(encoded["host"])
        if not all(prompts):
            raise ValueError("a prompt without a token")
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
    """Every tensor that must be there is, and all fit each other."""
    problem = _missing(tensors) or _misshapen(tensors) or _not_finite(tensors)
    if problem:
        raise DataError(f"{key}.safetensors: {problem}")


def _missing(tensors: Mapping[str, Tensor]) -> str:
    wanted = {"features", "extra", "on_grid", "times", "positions", f"{COLUMN}input_ids"}
    layers = [name for name in tensors if name.startswith(DEEPSTACK)]
    allowed = wanted | {"attention"} | {f"{DEEPSTACK}{layer}" for layer in range(len(layers))}
    odd = [name for name in tensors if name not in allowed and not name.startswith(COLUMN)]
    if missing := sorted(wanted - tensors.keys()):
        return f"there is no {', '.join(missing)}"
    return f"what is {odd[0]!r}?" if odd else ""


def _misshapen(tensors: Mapping[str, Tensor]) -> str:
    features, extra = tensors["features"], tensors["extra"]
    if features.ndim != 4 or features.dtype not in DTYPES or not features.numel():
        return f"features must be (T, H, W, D) numbers, not {tuple(features.shape)} of {features.dtype}"
    grid, width, columns = tuple(features.shape[:3]), features.shape[3], tuple(tensors[f"{COLUMN}input_ids"].shape)
    beside = extra.shape[0] if extra.ndim == 2 else 0
    shapes = {"extra": (beside, width), "on_grid": (features[..., 0].numel() + beside,), "times": grid[:1]}
    for name, tensor in tensors.items():
        layer = name == "features" or name.startswith(DEEPSTACK)
        shape = tuple(features.shape) if layer else grid if name == "attention" else shapes.get(name, columns)
        kinds = (features.dtype,) if layer or name == "extra" else _kinds(name)
        axes = tensor.shape[-1:] if name == "positions" and tensor.ndim == 2 else tensor.shape
        if tuple(axes) != shape or tensor.dtype not in kinds:
            return f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, which does not fit {shape}"
    if len(columns) != 1 or not columns[0]:
        return f"input_ids must be one row of columns, not {columns}"
    on_grid = int(tensors["on_grid"].sum())
    return "" if on_grid == features[..., 0].numel() else f"{on_grid} placeholders are for a grid of {grid}"


def _kinds(name: str) -> tuple[torch.dtype, ...]:
    if name == "on_grid":
        return (torch.bool,)
    return (torch.float32,) if name in ("times", "attention") else INTEGERS


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)  # one pass, no copy; NaN propagates
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                return f"{name} holds NaN or infinite values"
        elif tensor.numel() and int(tensor.min()) < 0:
            return f"{name} holds {int(tensor.min())}"
    return "" if bool((tensors["times"].diff() >= 0).all()) else "times do not ascend"


def _ids(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(_number(value) for value in values)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < LONGEST:
        raise ValueError(f"{value!r} is no token or position")
    return value
