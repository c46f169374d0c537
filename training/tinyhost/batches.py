"""Batches for the language model of the tinyhost: videos are generated, encoded by the frozen tower and reduced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from framefold.data.question import Question
from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.questions import helper_questions, without_choices
from framefold.errors import HostError
from framefold.training.frozen_host.question_rows import QuestionRows, build_prompt

from .build import grid_side
from .stage import Stage
from .token_views import TokenView, choose_places, take_places

ROW_TOKENS = 8  # approximate length of a question row

_STREAM = 104729


@dataclass(frozen=True)
class VideoBatch:
    """B videos with K visual tokens each, of which the last is the newline.

    Attributes:
        features: (B, K, D).
        input_ids: (B, 1 + K).
        position_ids: (B, 1 + K).
        rows: all questions of all videos.
        types: question type of each row.
    """

    features: Tensor
    input_ids: Tensor
    position_ids: Tensor
    rows: QuestionRows
    types: tuple[str, ...]


@dataclass
class RawBatch:
    """Videos and questions of a step, before the host encodes them.

    Attributes:
        videos: of equal length.
        questions: equally many for each video.
        view: see :class:`~framefold.training.tinyhost.token_views.TokenView`.
        count: approximate number of tokens of a video that the language model sees.
        rng: generator for the random choices that follow encoding.
    """

    videos: list[Video]
    questions: list[list[Question]]
    view: str
    count: int
    rng: RandomStream


def generate_batch(stage: Stage, seed: int, side: int, step: int) -> RawBatch:
    """Generate the videos of a step, all of the same length and with the same token view, so that nothing is padded.

    Args:
        stage: of the training.
        seed: of the run.
        side: rows (and columns) of the token grid of a frame.
        step: from 0.

    Raises:
        HostError: No question of the requested types fits a video of this length.
    """
    rng = RandomStream(seed, _STREAM, sum(stage.name.encode()), step, 0)
    frames = rng.between(*stage.frames)
    view = _pick_view(rng, stage.mixes)
    ratio = view.keep[0] + (view.keep[1] - view.keep[0]) * rng.below(1001) / 1000
    count = max(1, round(ratio * frames * side * side))
    number = max(2, min(32, stage.tokens // (count + ROW_TOKENS * stage.questions)))
    difficulty = rng.pick(stage.difficulty)
    first = rng.below(2**40)
    videos = [generate(first + i, seed=seed, frames=frames, difficulty=difficulty) for i in range(number)]
    types = view.types or stage.types
    questions = [_questions(video, types, stage, rng) for video in videos]
    kept = [i for i, some in enumerate(questions) if some]  # a video of one scene has no question about two
    if not kept:
        raise HostError(f"stage {stage.name!r}: no video of {frames} frames has a question of type {types}")
    fewest = min(len(questions[i]) for i in kept)  # rows are packed, which needs equally many for each video
    return RawBatch([videos[i] for i in kept], [questions[i][:fewest] for i in kept], view.how, count, rng)


def encode_raw_batch(
    host: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, batch: RawBatch
) -> VideoBatch:
    """Encode and reduce the videos of a step, on the host's device."""
    side = grid_side(host)
    index = choose_places(batch.videos, batch.view, batch.count, batch.rng, side)
    shown = torch.zeros(len(batch.videos), len(batch.videos[0].frames), dtype=torch.bool)
    shown.scatter_(1, index // side**2, True)
    features, newline = _encode(host, batch.videos, shown if batch.view != "pooled" else torch.ones_like(shown))
    kept = take_places(features, index, batch.view, side)
    total = features.shape[1]
    return build_video_batch(host, tokenizer, batch.questions, torch.cat([kept, newline], dim=1), index, total)


def _questions(video: Video, types: Sequence[str], stage: Stage, rng: RandomStream) -> list[Question]:
    """Return up to ``stage.questions`` questions in random order, cycling through the types."""
    pools: dict[str, list[Question]] = {}
    candidates = [*video.every_question(), *(helper_questions(video.events) if types else ())]
    for question in candidates:  # a question may occur twice, to balance its answers
        if not types or question.type in types:
            bare = rng.below(1000) < round(1000 * stage.bare)
            pools.setdefault(question.type, []).append(without_choices(question) if bare else question)
    shuffled = [[pool[i] for i in rng.permutation(len(pool))] for pool in pools.values()]
    shuffled = [shuffled[i] for i in rng.permutation(len(shuffled))]
    rounds = zip_longest(*shuffled)
    return [question for one_of_each in rounds for question in one_of_each if question][: stage.questions]


def _pick_view(rng: RandomStream, views: tuple[TokenView, ...]) -> TokenView:
    at = rng.below(1_000_000) / 1_000_000 * sum(view.share for view in views)
    for view in views:
        at -= view.share
        if at < 0:
            break
    return view


@torch.no_grad()
def _encode(host: LlavaOnevisionForConditionalGeneration, videos: list[Video], shown: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, T*H*W, D) tokens, zero in frames (B, T) that are not shown, and (B, 1, D) newlines."""
    tokens = []
    for video, frames in zip(videos, shown, strict=True):  # a video's activations fit the cache, a batch's do not
        pixels = torch.from_numpy(video.frames)[frames].to(host.device).movedim(-1, 1).float() / 127.5 - 1
        with torch.autocast(host.device.type, torch.bfloat16):
            features = host.get_video_features(pixels[None], return_dict=True).pooler_output[0].float()
        grid = features[:-1].unflatten(0, (len(pixels), -1))
        tokens.append(grid.new_zeros(len(frames), *grid.shape[1:]).index_put((frames.to(host.device),), grid))
    return torch.stack(tokens).flatten(1, 2), features[-1:].expand(len(videos), 1, -1)


def build_video_batch(
    host: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Sequence[Question]],
    features: Tensor,
    index: Tensor,
    total: int,
) -> VideoBatch:
    """Build prompts and question rows for reduced videos.

    Args:
        host: of the features.
        tokenizer: of the host.
        questions: of each of the B videos.
        features: (B, K + 1, D) kept tokens, followed by the newline.
        index: (B, K) places of the kept tokens among all tokens.
        total: number of all tokens of a video, without the newline.
    """
    video_id = host.config.video_token_id
    prompts = [
        build_prompt(
            tokenizer,
            [question.text for question in of_video],
            [question.answer for question in of_video],
            total + 1,
            video_id,
            end=True,
        )
        for of_video in questions
    ]
    prefix = prompts[0][0]
    head = int((prefix == video_id).int().argmax())
    lead = torch.arange(head).expand(len(questions), -1)
    newline = torch.full((len(questions), 1), head + total)
    positions = torch.cat([lead, head + index, newline], dim=1)
    types = tuple(question.type for of_video in questions for question in of_video)
    rows = QuestionRows.concat([rows for _, rows in prompts]).to(features.device)
    return VideoBatch(features, prefix[positions].to(features.device), positions.to(features.device), rows, types)


def prefix_kwargs(batch: VideoBatch) -> dict[str, Any]:
    """Return the videos of a batch as keyword arguments of the host's forward."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": torch.ones_like(batch.input_ids),
        "position_ids": batch.position_ids,
        "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=batch.features)},
    }
