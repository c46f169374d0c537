"""Training of the tinyhost's vision tower on single frames.

Dimensions: N frames, P tokens per frame, D width of a token, W width of the tower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

from framefold.data.synthetic.render import COLORS, SHAPES, TEXTURES

from .build import grid_side
from .frames import IGNORE, KINDS, PROBES, frame_batch
from .modules import HostTraining
from .stage import Stage
from .video_frames import video_frame_batch

WORDS: dict[str, tuple[str, ...]] = {"shape": SHAPES, "color": tuple(COLORS), "texture": TEXTURES}

WEIGHTS = {"kind": 1.0, "shape": 1.0, "color": 1.0, "texture": 0.5, "row": 0.5, "column": 0.5}

FLASH = KINDS.index("flash")

CELL = 4  # rows (and columns) of the pixels that are reconstructed from a token


class VisionTraining(HostTraining):
    """Trains tower and projector to encode at every token what it shows and where it is.

    Shape, colour and texture are classified with the word embeddings of the language model, which are trained as well,
    so that visual tokens resemble the embeddings of their words. Other tasks have linear probes, which are discarded
    after training.
    """

    def __init__(
        self,
        host: LlavaOnevisionForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        stage: Stage,
        seed: int,
    ) -> None:
        super().__init__(host, stage, seed)
        text: Any = host.config.text_config
        vision: Any = host.config.vision_config
        self.side = grid_side(host)
        sizes = {name: n or self.side for name, n in PROBES.items() if name not in WORDS}
        if stage.appearance:
            sizes["appearance"] = 3 * CELL**2
        self.probes = nn.ModuleDict({name: nn.Linear(text.hidden_size, n) for name, n in sizes.items()})
        if stage.summary:
            self.probes["summary"] = nn.Linear(vision.hidden_size, len(SHAPES) + len(COLORS))
        for name, words in WORDS.items():
            self.register_buffer(f"{name}_ids", torch.tensor(tokenizer.convert_tokens_to_ids(list(words))))

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        kept = ("vision_tower", "multi_modal_projector", "embed_tokens", "probes")
        return [(name, p) for name, p in self.named_parameters() if any(part in name for part in kept)]

    def batch_function(self) -> Callable[[int], Any]:
        stage = self.stage
        vision: Any = self.host.config.vision_config
        if stage.source == "videos":
            return partial(
                video_frame_batch, seed=self.seed, frames=stage.batch, cells=self.side, difficulty=stage.difficulty
            )
        return partial(frame_batch, seed=self.seed, frames=stage.batch, size=vision.image_size, cells=self.side)

    def training_step(self, batch: tuple[np.ndarray, dict[str, np.ndarray]], batch_idx: int) -> Tensor:
        frames, labels = batch
        pixels = torch.from_numpy(frames).to(self.device).movedim(-1, 1).float() / 127.5 - 1
        targets = {name: torch.from_numpy(label).to(self.device) for name, label in labels.items()}
        features, pooled = self._encode(pixels)
        tokens = F.rms_norm(features, features.shape[-1:])
        loss = tokens.new_zeros(())
        for name, target in targets.items():
            loss = loss + WEIGHTS[name] * self._probe_loss(name, tokens, target.flatten())
        if self.stage.even_length:
            loss = loss + self.stage.even_length * self._length_loss(features, targets["kind"].flatten())
        if self.stage.appearance:
            loss = loss + self.stage.appearance * self._appearance_loss(tokens, pixels)
        if self.stage.summary:
            loss = loss + self.stage.summary * self._summary_loss(pooled[0], targets)
        self._log("loss", loss.detach(), 1)
        return loss

    def _encode(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the tokens (N * P, D) of all frames, and a list with the output (N, W) of a pooling head."""
        pooled: list[Tensor] = []
        head = getattr(self.host.model.vision_tower, "head", nn.Identity())
        hook = head.register_forward_hook(lambda module, args, output: pooled.append(output.float()))
        features = self.host.get_video_features(pixels[None], return_dict=True).pooler_output[0, :-1].float()
        hook.remove()
        return features, pooled

    def _probe_loss(self, name: str, tokens: Tensor, target: Tensor) -> Tensor:
        """Return the classification loss of a probe at every token with a label."""
        logits = self._classify(name, tokens)
        labelled = target != IGNORE
        correct = logits.argmax(-1) == target
        self._log(name, correct[labelled].float().mean(), int(labelled.sum()))
        return F.cross_entropy(logits, target, ignore_index=IGNORE)

    def _classify(self, name: str, tokens: Tensor) -> Tensor:
        if name not in WORDS:
            return self.probes[name](tokens)
        embeddings = self.host.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return tokens @ embeddings.weight[getattr(self, f"{name}_ids")].T

    def _length_loss(self, features: Tensor, kinds: Tensor) -> Tensor:
        """Return the sum of the variances of the logarithms of lengths, and of distances from the mean token.

        Each kind of token has the same weight in a variance, since tokens of flashes are rare.

        Args:
            features: (M, D) tokens.
            kinds: (M,) labels.
        """
        labelled = kinds != IGNORE
        kinds = kinds[labelled]
        counts = kinds.bincount(minlength=len(KINDS))
        total = features.new_zeros(())
        for name, origin in (("length", torch.zeros_like(features[0])), ("distance", features.mean(dim=0))):
            lengths = (features - origin).norm(dim=-1).clamp_min(1e-6).log()
            deviations = (lengths - lengths.mean()).square()[labelled]
            sums = deviations.new_zeros(len(KINDS)).index_add(0, kinds, deviations)
            variance = (sums / counts.clamp_min(1)).sum() / (counts > 0).sum()
            self._log(name, variance.detach(), 1)
            total = total + variance
        return total

    def _appearance_loss(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Return the error of reconstructed pixels, of CELL x CELL per token, relative to their variance."""
        scaled = F.adaptive_avg_pool2d(pixels, self.side * CELL)
        cells = F.pixel_unshuffle(scaled, CELL).movedim(1, -1).flatten(0, 2)
        error = F.mse_loss(self.probes["appearance"](tokens), cells) / cells.var()
        self._log("appearance", error.detach(), 1)
        return error

    def _summary_loss(self, pooled: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the divergence of the shares of shapes and colours in a frame from those that its pooled state tells.

        Args:
            pooled: (N, W).
            targets: (N, P) labels by probe; a flash counts ``emphasis`` times.
        """
        weights = torch.where(targets["kind"] == FLASH, self.stage.emphasis, 1.0)
        logits = self.probes["summary"](F.rms_norm(pooled, pooled.shape[-1:])).split([len(SHAPES), len(COLORS)], dim=1)
        loss = pooled.new_zeros(())
        for name, part in zip(("shape", "color"), logits, strict=True):
            label = targets[name]
            counts = weights.new_zeros(part.shape).scatter_add_(1, label.clamp_min(0), weights * (label != IGNORE))
            shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
            loss = loss + F.kl_div(part.float().log_softmax(dim=1), shares, reduction="batchmean")
        self._log("summary", loss.detach(), 1)
        return loss
