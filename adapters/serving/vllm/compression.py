"""The compressor of a model in the engine: kept beside the model, applied to one video at a time."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.prompt.checks import check_tokens
from framefold.errors import ContractError, InputError, ServingError

from .settings import ServingSettings, plain_tensors
from .synthetic_prompt import check_numbering

PROBE_FRAMES = (1, 4, 9)  # of the videos on which a compressor is tried

LOGGER = logging.getLogger(__name__)


class VideoCompression:
    """Mixin for a model class of vLLM: holds a compressor, which is no submodule.

    The engine therefore neither asks for its weights in the host's checkpoint, nor casts, quantizes or shards them.

    Attributes:
        framefold_settings: the settings.
        framefold_compressor: the compressor.
    """

    framefold_settings: ServingSettings
    framefold_compressor: Compressor

    def hold_compressor(self, vllm_config: Any, grid: tuple[int, int] = (4, 4)) -> None:
        """Load the compressor that the configuration names, and try it and the numbering of prompts on small videos.

        Args:
            vllm_config: the configuration of the engine.
            grid: (H, W) of the token grid of the host's frames, or any if they differ in size.

        Raises:
            ServingError: the compressor does not fit this host, or prompts are not numbered as they should be.
        """
        hf_config = vllm_config.model_config.hf_config
        with plain_tensors():
            check_numbering(vllm_config.model_config.dtype)
        settings = ServingSettings.of(hf_config)
        compressor = settings.load()
        object.__setattr__(self, "framefold_settings", settings)
        object.__setattr__(self, "framefold_compressor", compressor)
        width = hf_config.get_text_config().hidden_size
        try:
            with plain_tensors(), torch.inference_mode():
                noise = torch.Generator().manual_seed(0)
                question = torch.randn(4, width, generator=noise) if compressor.query_aware else None
                for frames in PROBE_FRAMES:
                    self.compress_video(Encoded.from_grid(torch.randn(frames, *grid, width, generator=noise)), question)
        except (ContractError, InputError) as error:
            raise ServingError(f"{compressor.name} does not fit this host: {error}") from error

    def compress_video(self, clip: Encoded, question: Tensor | None = None) -> tuple[VideoTokens, list[Tensor]]:
        """Compress one video.

        Args:
            clip: the video.
            question: (Q, D) embeddings of the question, for compressors that read it.

        Returns:
            The tokens, and what fills their placeholders: the features, then each deepstack layer.

        Raises:
            ContractError: the number of tokens is not the one that the prompt was laid out for. Nothing is padded or
                cut, because the prompt and its cached blocks would be wrong.
        """
        compressor = self.framefold_compressor.to(clip.features.device)
        video = VideoTokens.from_grid(clip.features, times=clip.times)
        tokens = check_tokens(compressor(video, question), video).tokens
        wanted = self.framefold_settings.count(video.per_frame, video.grid[0])
        if len(tokens) != wanted:
            raise ContractError(f"{compressor.name} kept {len(tokens)} tokens of a video, its prompt has {wanted}")
        LOGGER.debug("%s kept %d of %d tokens", compressor.name, len(tokens), len(video))
        return tokens, clip.streams(tokens)
