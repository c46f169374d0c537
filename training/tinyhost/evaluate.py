"""Measure a host on held-out synthetic videos: the verb `framefold tinyhost eval`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.generate import Video
from framefold.data.synthetic.questions import CHANCE, HEADLINE, QUESTION_TYPES
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import HostError
from framefold.training.frozen_host.host import EmbeddedHost
from framefold.training.frozen_host.load import load_embedded
from framefold.training.frozen_host.question_rows import answer_logits, predict

from .batches import VideoBatch, assemble, prefix_of
from .build import grid_side
from .token_views import reduce_tokens

Mark = tuple[int, bool]

Show = Callable[[Tensor, Video], tuple[Tensor, Tensor]]

_STREAM = 15485863


def evaluate_host(
    host: str = "checkpoints/tinyhost",
    frames: list[int] = [64],  # noqa: B006 (read only; a list for the command line)
    videos: int = 200,
    seed: int = 0,
    split: str = "test",
    difficulty: str | Difficulty = "hard",
    style: list[str] = ["normal"],  # noqa: B006
    show: list[str] = ["full"],  # noqa: B006
    threads: int = 1,
) -> dict[str, Any]:
    """Print and return accuracy per question type, with 95 % intervals, and their mean.

    Args:
        host: folder of the host.
        frames: lengths to measure.
        videos: how many of each length and style; every video asks one question of each type that it can carry.
        seed: of the videos.
        split: train, val or test.
        difficulty: easy, hard, or settings of data.difficulty.Difficulty.
        style: normal, or held_out: glyphs and textures that no training video shows.
        show: what the host sees of the tokens: "full", "blind" (features zeroed), "frame" (one random frame), or a
            reduction with the share it keeps, such as "random:0.25", "frames:0.25", "pooled:0.25" or "evidence:0.1".
        threads: torch threads.

    Returns {"<show>@<frames>/<style>": {"accuracy": mean over the headline types, "n": questions of these, "types":
    {type: [accuracy, low, high, n]}}}. Raises HostError for a folder that holds no host, no videos or an unknown
    `show`, DataError for videos that cannot be.
    """
    torch.set_num_threads(threads)
    loaded = load_embedded(host)
    ways = {name: _way(name, loaded) for name in show}
    if videos < 1:
        raise HostError(f"videos must be at least 1, got {videos}: there is no accuracy of no question")
    recipes = [Recipe((length, length), seed, split, difficulty, look) for length in frames for look in style]
    results = {}
    for recipe in recipes:
        right = _right(loaded, ways, recipe, videos)
        for name in show:
            key = f"{name}@{recipe.frames[0]}/{recipe.style}"
            results[key] = _summary(right[name])
            title = f"{name}, {recipe.frames[0]} frames, {recipe.style} style, {videos} videos"
            print(_table(title, results[key]), flush=True)
    return results


def _right(host: EmbeddedHost, ways: dict[str, Show], recipe: Recipe, videos: int) -> dict[str, dict[str, list[Mark]]]:
    """By way to show and by type: the pair of twins a question is of, and whether the answer was right."""
    right: dict[str, dict[str, list[Mark]]] = {name: defaultdict(list) for name in ways}
    for index in range(videos):
        video = recipe.video(index)
        tokens = host.encode(host.pixel_values(video.frames))
        for name, way in ways.items():
            for kind, ok in zip(*_answer(host, video, tokens, way), strict=True):
                right[name][kind].append((index // 2, ok))
    return right


def _is_share(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


def _way(name: str, host: EmbeddedHost) -> Show:
    """How a `show` name turns full tokens (1, N, D) into kept ones and their places."""
    how, _, share = name.partition(":")
    side = grid_side(host.model)
    known = ("full", "blind", "frame", "random", "frames", "pooled", "evidence")
    if how not in known or (share and not _is_share(share)):
        raise HostError(
            f"cannot show {name!r}: use full, blind, frame, or random, frames, pooled, evidence with :SHARE in (0, 1]"
        )

    def way(tokens: Tensor, video: Video) -> tuple[Tensor, Tensor]:
        count = max(1, round(float(share or 1) * tokens.shape[1]))
        draws = RandomStream(_STREAM, video.key[2], 0, 0)
        if how == "blind":
            return reduce_tokens(torch.zeros_like(tokens), [video], "full", count, draws, side)
        if how == "frame":
            first = draws.below(len(video.frames)) * side * side
            return tokens[:, first : first + side * side], torch.arange(first, first + side * side)[None]
        return reduce_tokens(tokens, [video], how, count, draws, side)

    return way


@torch.no_grad()
def _answer(host: EmbeddedHost, video: Video, tokens: Tensor, way: Show) -> tuple[tuple[str, ...], list[bool]]:
    kept, index = way(tokens[:, :-1], video)
    features = torch.cat([kept, tokens[:, -1:]], dim=1)
    batch: VideoBatch = assemble(host.model, host.tokenizer, [video.questions], features, index, tokens.shape[1] - 1)
    predicted = predict(answer_logits(host.model, prefix_of(batch), batch.rows), batch.rows)
    return batch.types, (predicted == batch.rows.answers()).tolist()


def _summary(right: dict[str, list[Mark]]) -> dict[str, Any]:
    types = {kind: _share(right[kind]) for kind in QUESTION_TYPES if right[kind]}
    headline = [row[0] for kind, row in types.items() if kind in HEADLINE]
    return {
        "accuracy": sum(headline) / max(1, len(headline)),
        "n": sum(int(row[3]) for kind, row in types.items() if kind in HEADLINE),
        "types": types,
    }


def _share(marks: list[Mark]) -> list[float]:
    """Share of right answers, its 95 % interval and the number of answers.

    Twins are alike, so the interval is that of as many independent answers as tell as much (Kish's design effect).
    """
    n = len(marks)
    share = sum(ok for _, ok in marks) / n
    excess: dict[int, float] = defaultdict(float)
    for pair, ok in marks:
        excess[pair] += ok - share
    spread = n * share * (1 - share)
    effect = sum(value**2 for value in excess.values()) / spread if spread else 2.0
    return [*wilson(share, n / max(1.0, effect)), n]


def wilson(share: float, n: float) -> tuple[float, float, float]:
    """A share of n answers with its 95 % interval (E. B. Wilson, 1927)."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def _table(title: str, summary: dict[str, Any]) -> str:
    lines = [title, f"{'type':<13}{'accuracy':>9}  95 % interval   chance     n"]
    for kind, (share, low, high, n) in summary["types"].items():
        lines.append(f"{kind:<13}{share:>8.1%}  {low:>6.1%} {high:>6.1%}  {CHANCE[kind]:>7.1%} {n:>6}")
    return "\n".join([*lines, f"{'headline':<13}{summary['accuracy']:>8.1%}{'':<27}{summary['n']:>6}"])
