"""The command ``framefold tinyhost eval``: accuracy of a tinyhost on held-out synthetic videos."""

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
from framefold.progress import progress_bar
from framefold.training.frozen_host.host import Tinyhost
from framefold.training.frozen_host.load import load_tinyhost
from framefold.training.frozen_host.question_rows import answer_logits, predict

from .batches import build_video_batch, prefix_kwargs
from .build import grid_side
from .token_views import reduce_tokens

Mark = tuple[int, bool]  # number of the pair of twin videos, and whether the answer was correct

View = Callable[[Tensor, Video], tuple[Tensor, Tensor]]  # tokens (1, N, D) to kept tokens and their places (1, K)

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
    """Print and return the accuracy per question type with 95 % intervals, and the mean over the headline types.

    Args:
        host: folder of the host.
        frames: lengths of the videos.
        videos: number of videos per length and style; each asks one question of every type that it can have.
        seed: of the videos.
        split: train, val or test.
        difficulty: easy, hard, crowded, or settings of data.synthetic.difficulty.Difficulty.
        style: normal, held_out (glyphs and textures that no training video has), or natural (photographs).
        show: tokens that the host sees: "full", "blind" (features of zero), "frame" (one random frame), or a reduction
            with the ratio that it keeps, such as "random:0.25", "frames:0.25", "pooled:0.25" or "evidence:0.1".
        threads: torch threads.

    Returns:
        {"<show>@<frames>/<style>": {"accuracy": mean over the headline types, "n": number of their questions, "types":
        {type: [accuracy, low, high, n]}}}.

    Raises:
        HostError: The folder holds no tinyhost, ``videos`` is not positive, or an entry of ``show`` is unknown.
        DataError: Videos with these settings cannot be generated.
    """
    torch.set_num_threads(threads)
    loaded = load_tinyhost(host)
    views = {name: named_view(name, loaded) for name in show}
    if videos < 1:
        raise HostError(f"videos must be at least 1, got {videos}")
    recipes = [Recipe((length, length), seed, split, difficulty, one) for length in frames for one in style]
    results = {}
    with progress_bar(what="tinyhost eval", total=videos * len(recipes), unit="video", leave=False) as bar:
        for recipe in recipes:
            marks = _marks(loaded, views, recipe, videos, bar)
            for name in show:
                key = f"{name}@{recipe.frames[0]}/{recipe.style}"
                results[key] = _summary(marks[name])
                title = f"{name}, {recipe.frames[0]} frames, {recipe.style} style, {videos} videos"
                print(_table(title, results[key]), flush=True)
    return results


def _marks(
    host: Tinyhost, views: dict[str, View], recipe: Recipe, videos: int, bar: Any
) -> dict[str, dict[str, list[Mark]]]:
    """Return the marks of all questions by view and question type."""
    marks: dict[str, dict[str, list[Mark]]] = {name: defaultdict(list) for name in views}
    for index in range(videos):
        video = recipe.video(index)
        tokens = host.encode_pixels(host.pixel_values(video.frames))
        for name, view in views.items():
            for kind, correct in zip(*answer_video(host, video, tokens, view), strict=True):
                marks[name][kind].append((index // 2, correct))
        bar.update()
    return marks


def _is_ratio(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


def named_view(name: str, host: Tinyhost) -> View:
    """Return the view with this name, an entry of ``show``."""
    how, _, ratio = name.partition(":")
    side = grid_side(host.model)
    known = ("full", "blind", "frame", "random", "frames", "pooled", "evidence")
    if how not in known or (ratio and not _is_ratio(ratio)):
        raise HostError(
            f"cannot show {name!r}: use full, blind, frame, or random, frames, pooled, evidence with :RATIO in (0, 1]"
        )

    def view(tokens: Tensor, video: Video) -> tuple[Tensor, Tensor]:
        count = max(1, round(float(ratio or 1) * tokens.shape[1]))
        rng = RandomStream(_STREAM, video.key[2], 0, 0)
        if how == "blind":
            return reduce_tokens(torch.zeros_like(tokens), [video], "full", count, rng, side)
        if how == "frame":
            first = rng.below(len(video.frames)) * side * side
            return tokens[:, first : first + side * side], torch.arange(first, first + side * side)[None]
        return reduce_tokens(tokens, [video], how, count, rng, side)

    return view


@torch.no_grad()
def answer_video(host: Tinyhost, video: Video, tokens: Tensor, view: View) -> tuple[tuple[str, ...], list[bool]]:
    """Return the types of a video's questions, and whether the host answers them correctly."""
    kept, index = view(tokens[:, :-1], video)
    features = torch.cat([kept, tokens[:, -1:]], dim=1)
    batch = build_video_batch(host.model, host.tokenizer, [video.questions], features, index, tokens.shape[1] - 1)
    predicted = predict(answer_logits(host.model, prefix_kwargs(batch), batch.rows), batch.rows)
    return batch.types, (predicted == batch.rows.answers()).tolist()


def _summary(marks: dict[str, list[Mark]]) -> dict[str, Any]:
    types = {kind: _accuracy(marks[kind]) for kind in QUESTION_TYPES if marks[kind]}
    headline = [row[0] for kind, row in types.items() if kind in HEADLINE]
    return {
        "accuracy": sum(headline) / max(1, len(headline)),
        "n": sum(int(row[3]) for kind, row in types.items() if kind in HEADLINE),
        "types": types,
    }


def _accuracy(marks: list[Mark]) -> list[float]:
    """Return the accuracy, its 95 % interval and the number of answers.

    Answers about twins are correlated, so the interval is that of the effective number of independent answers (Kish's
    design effect).
    """
    n = len(marks)
    accuracy = sum(correct for _, correct in marks) / n
    excess: dict[int, float] = defaultdict(float)
    for pair, correct in marks:
        excess[pair] += correct - accuracy
    variance = n * accuracy * (1 - accuracy)
    effect = sum(value**2 for value in excess.values()) / variance if variance else 2.0
    return [*wilson(accuracy, n / max(1.0, effect)), n]


def wilson(share: float, n: float) -> tuple[float, float, float]:
    """Return a share of n answers with its 95 % interval (E. B. Wilson, 1927)."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def _table(title: str, summary: dict[str, Any]) -> str:
    lines = [title, f"{'type':<13}{'accuracy':>9}  95 % interval   chance     n"]
    for kind, (share, low, high, n) in summary["types"].items():
        lines.append(f"{kind:<13}{share:>8.1%}  {low:>6.1%} {high:>6.1%}  {CHANCE[kind]:>7.1%} {n:>6}")
    return "\n".join([*lines, f"{'headline':<13}{summary['accuracy']:>8.1%}{'':<27}{summary['n']:>6}"])
