"""Measure a host on held-out synthetic videos: the verb `framefold host eval`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..data.draws import Draws
from ..data.synthetic import CHANCE, QUESTION_TYPES, Video, generate
from .host_batches import VideoBatch, assemble, prefix_of, reduce_tokens
from .hostio import Host, HostError, grid_side, load_host
from .qa import answer_logits, predict

Show = Callable[[Tensor, Video], tuple[Tensor, Tensor]]
_STREAM = 15485863


def evaluate(
    host: str = "checkpoints/tinyhost",
    frames: list[int] = [64],  # noqa: B006 (read only; a list for the command line)
    videos: int = 200,
    seed: int = 0,
    split: str = "test",
    clutter: float = 0.5,
    show: list[str] = ["full"],  # noqa: B006
    threads: int = 1,
) -> dict[str, Any]:
    """Print and return accuracy per question type, with 95 % intervals, and their mean.

    Args:
        host: folder of the host.
        frames: lengths to measure.
        videos: how many of each length; every video asks about one question of each type.
        seed: of the videos.
        split: train, val or test.
        clutter: blinks per frame.
        show: what the host sees of the tokens: "full", "blind" (features zeroed), or a reduction with the share it
            keeps, such as "random:0.25", "frames:0.25", "pooled:0.25" or "events:0.1".
        threads: torch threads.

    Returns {"<show>@<frames>": {"accuracy": macro mean, "n": questions, "types": {type: [accuracy, low, high, n]}}}.
    Raises HostError for a folder that holds no host and for an unknown `show`.
    """
    torch.set_num_threads(threads)
    loaded = load_host(host)
    ways = {name: _way(name, loaded) for name in show}
    results = {}
    for length in frames:
        right: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in show}
        for index in range(videos):
            video = generate(index, seed=seed, split=split, frames=length, clutter=clutter)
            tokens = loaded.encode(loaded.pixel_values(video.frames))
            for name, way in ways.items():
                for kind, ok in zip(*_answer(loaded, video, tokens, way), strict=True):
                    right[name][kind].append(ok)
        for name in show:
            results[f"{name}@{length}"] = _summary(right[name])
            print(_table(f"{name}, {length} frames, {videos} videos", results[f"{name}@{length}"]), flush=True)
    return results


def _way(name: str, host: Host) -> Show:
    """How a `show` name turns full tokens (1, N, D) into kept ones and their places."""
    how, _, share = name.partition(":")
    side = grid_side(host.model)
    if how not in ("full", "blind", "random", "frames", "pooled", "events") or (share and not 0 < float(share) <= 1):
        raise HostError(
            f"cannot show {name!r}: use full, blind, or random, frames, pooled, events with :SHARE in (0, 1]"
        )

    def way(tokens: Tensor, video: Video) -> tuple[Tensor, Tensor]:
        count = max(1, round(float(share or 1) * tokens.shape[1]))
        draws = Draws(_STREAM, video.key[2], 0, 0)
        if how == "blind":
            return reduce_tokens(torch.zeros_like(tokens), [video], "full", count, draws, side)
        return reduce_tokens(tokens, [video], how, count, draws, side)

    return way


@torch.no_grad()
def _answer(host: Host, video: Video, tokens: Tensor, way: Show) -> tuple[tuple[str, ...], list[bool]]:
    kept, index = way(tokens[:, :-1], video)
    features = torch.cat([kept, tokens[:, -1:]], dim=1)
    batch: VideoBatch = assemble(host.model, host.tokenizer, [video.questions], features, index, tokens.shape[1] - 1)
    predicted = predict(answer_logits(host.model, prefix_of(batch), batch.rows), batch.rows)
    return batch.types, (predicted == batch.rows.answers()).tolist()


def _summary(right: dict[str, list[bool]]) -> dict[str, Any]:
    types = {
        kind: [*wilson(sum(right[kind]), len(right[kind])), len(right[kind])] for kind in QUESTION_TYPES if right[kind]
    }
    macro = sum(row[0] for row in types.values()) / len(types)
    return {"accuracy": macro, "n": sum(row[3] for row in types.values()), "types": types}


def wilson(right: int, n: int) -> tuple[float, float, float]:
    """Share of right answers with its 95 % interval (E. B. Wilson, 1927)."""
    z2 = 1.96**2
    share = right / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def _table(title: str, summary: dict[str, Any]) -> str:
    lines = [title, f"{'type':<13}{'accuracy':>9}  95 % interval   chance     n"]
    for kind, (share, low, high, n) in summary["types"].items():
        lines.append(f"{kind:<13}{share:>8.1%}  {low:>6.1%} {high:>6.1%}  {CHANCE[kind]:>7.1%} {n:>6}")
    return "\n".join([*lines, f"{'macro':<13}{summary['accuracy']:>8.1%}{'':<25}{summary['n']:>6}"])
