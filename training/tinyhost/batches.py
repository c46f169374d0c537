"""Batches of videos for the host's language model: generated, encoded by the frozen tower, and reduced on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from framefold.data.question import Question
from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.questions import helper_questions, without_choices
from framefold.errors import HostError
from framefold.training.frozen_host.question_rows import QARows, build_prompt

from .build import grid_side
from .token_views import Mix, reduce_tokens

if TYPE_CHECKING:
    from .stage import Stage


ROW_TOKENS = 8  # about what a question costs beside its video

_STREAM = 104729


@dataclass(frozen=True)
class VideoBatch:
    """B videos with K visual tokens each (the newline last): features (B, K, D), ids and positions (B, 1 + K), rows."""

    features: Tensor
    input_ids: Tensor
    position_ids: Tensor
    rows: QARows
    types: tuple[str, ...]


@dataclass
class DrawnVideos:
    """What the batch of a step is made of, before the host sees it; `draws` goes on with what is drawn later."""

    videos: list[Video]
    asked: list[list[Question]]
    how: str
    count: int
    draws: RandomStream


def draw_videos(stage: Stage, seed: int, side: int, step: int) -> DrawnVideos:
    """The videos of a step: one length and one mix for all of them, so that nothing is padded."""
    draws = RandomStream(seed, _STREAM, sum(stage.name.encode()), step, 0)
    frames = draws.between(*stage.frames)
    mix = _draw_mix(draws, stage.mixes)
    ratio = mix.keep[0] + (mix.keep[1] - mix.keep[0]) * draws.below(1001) / 1000
    count = max(1, round(ratio * frames * side * side))
    videos = max(2, min(32, stage.tokens // (count + ROW_TOKENS * stage.questions)))
    difficulty = draws.pick(stage.difficulty)
    first = draws.below(2**40)
    made = [generate(first + i, seed=seed, frames=frames, difficulty=difficulty) for i in range(videos)]
    asked = [_questions(video, mix.types or stage.types, stage, draws) for video in made]
    kept = [i for i, some in enumerate(asked) if some]  # one scene alone has no question about two
    if not kept:
        raise HostError(
            f"stage {stage.name!r}: no video of {frames} frames can be asked about {mix.types or stage.types}"
        )
    fewest = min(len(asked[i]) for i in kept)  # the rows of a batch are packed, equally many for each video
    return DrawnVideos([made[i] for i in kept], [asked[i][:fewest] for i in kept], mix.how, count, draws)


def video_batch(
    host: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, drawn: DrawnVideos
) -> VideoBatch:
    """The videos of a step as the host's language model meets them, on the host's device."""
    features, newline = _encode(host, drawn.videos)
    total = features.shape[1]
    features, index = reduce_tokens(features, drawn.videos, drawn.how, drawn.count, drawn.draws, grid_side(host))
    return assemble(host, tokenizer, drawn.asked, torch.cat([features, newline], dim=1), index, total)


def _questions(video: Video, types: Sequence[str], stage: Stage, draws: RandomStream) -> list[Question]:
    """Up to as many questions as the stage wants: of every type in turn, of a type as they come."""
    pools: dict[str, list[Question]] = {}
    some = [*video.every_question(), *(helper_questions(video.events) if types else ())]
    for question in some:  # those that stand there twice balance their answers
        if not types or question.type in types:
            bare = draws.below(1000) < round(1000 * stage.bare)
            pools.setdefault(question.type, []).append(without_choices(question) if bare else question)
    decks = [[pool[i] for i in draws.permutation(len(pool))] for pool in pools.values()]
    decks = [decks[i] for i in draws.permutation(len(decks))]
    turns = zip_longest(*decks)
    return [question for turn in turns for question in turn if question][: stage.questions]


def _draw_mix(draws: RandomStream, mixes: tuple[Mix, ...]) -> Mix:
    at = draws.below(1_000_000) / 1_000_000 * sum(mix.share for mix in mixes)
    for mix in mixes:
        at -= mix.share
        if at < 0:
            break
    return mix


@torch.no_grad()
def _encode(host: LlavaOnevisionForConditionalGeneration, videos: list[Video]) -> tuple[Tensor, Tensor]:
    """(B, T*H*W, D) tokens and (B, 1, D) newlines."""
    tokens = []
    for video in videos:  # one at a time: a video's activations fit the cache, a batch's do not
        pixels = torch.from_numpy(video.frames).to(host.device).movedim(-1, 1).float() / 127.5 - 1
        with torch.autocast(host.device.type, torch.bfloat16):
            tokens.append(host.get_video_features(pixels[None], return_dict=True).pooler_output.float())
    features = torch.cat(tokens)
    return features[:, :-1], features[:, -1:]


def assemble(
    host: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Sequence[Question]],
    features: Tensor,
    index: Tensor,
    total: int,
) -> VideoBatch:
    """Questions of B videos on features (B, K + 1, D) kept at places (B, K) of `total` tokens, the newline behind."""
    video_id = host.config.video_token_id
    prompts = [
        build_prompt(
            tokenizer,
            [question.text for question in questions],
            [question.answer for question in questions],
            total + 1,
            video_id,
            end=True,
        )
        for questions in asked
    ]
    prefix = prompts[0][0]
    head = int((prefix == video_id).int().argmax())
    lead = torch.arange(head).expand(len(asked), -1)
    newline = torch.full((len(asked), 1), head + total)
    positions = torch.cat([lead, head + index, newline], dim=1)
    types = tuple(question.type for questions in asked for question in questions)
    rows = QARows.concat([rows for _, rows in prompts]).to(features.device)
    return VideoBatch(features, prefix[positions].to(features.device), positions.to(features.device), rows, types)


def prefix_of(batch: VideoBatch) -> dict[str, Any]:
    """The batch's videos as keyword arguments of the host's forward."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": torch.ones_like(batch.input_ids),
        "position_ids": batch.position_ids,
        "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=batch.features)},
    }
