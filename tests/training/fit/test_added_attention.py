"""framefold fit with a compressor that acts inside the language model: its weights move, and a run resumes exactly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import framefold
from framefold.__main__ import main
from framefold.cli.export import export
from framefold.training.module import CompressorModule
from framefold.warning_types import UntrainedCompressorWarning
from tests.support.hosts.added_attention import FAST, NAME

STEPS, STOP = 6, 4
VIDEO_FRAMES = 4
Fit = Callable[..., int]


@pytest.fixture(scope="module")
def fit(random_host: Path, shards: Path) -> Fit:
    """Call framefold fit in this process."""
    words = ["--config", f"compressor/{NAME}", "--config", "data/shards", "--data.shards", str(shards)]
    words += ["--data.batch_size", "2", "--data.seed", "3", "--model.host", str(random_host), "--model.lr", "0.05"]
    words += ["--config", "trainer/cpu", "--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.max_steps", str(STEPS), "--last.every", "2"]

    def run(root: Path, *args: str, stop: int = -1) -> int:
        real = CompressorModule.training_step

        def interrupted(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
            if self.global_step == stop:
                raise KeyboardInterrupt
            return real(self, batch, batch_idx)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["framefold"])
            patch.setattr(CompressorModule, "training_step", interrupted)
            return main(["fit", *words, "--trainer.default_root_dir", str(root), *args])

    return run


@pytest.fixture(scope="module")
def run(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete run."""
    root = tmp_path_factory.mktemp("run")
    assert fit(root) == 0
    return root


def weights(run: Path, version: int) -> dict[str, torch.Tensor]:
    return torch.load(run / f"version_{version}" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_alpha_and_the_projections_move_and_a_run_resumes_exactly(fit: Fit, run: Path, tmp_path: Path) -> None:
    expected = weights(run, 0)
    names = {f"compressor.in_llm.blocks.0.{name}" for name in ("kv_proj.weight", "kv_proj.bias", "gate.weight")}
    assert names | {"compressor.in_llm.blocks.0.gate.bias", "compressor.in_llm.blocks.0.alpha"} == set(expected)
    assert fit(tmp_path, "--resume", "auto", stop=STOP) == 130
    early = weights(tmp_path, 0)
    assert all(not torch.equal(early[name], value) for name, value in expected.items())
    assert expected["compressor.in_llm.blocks.0.alpha"].abs().item() > 1e-3
    assert fit(tmp_path, "--resume", "auto") == 0
    assert all(torch.equal(weights(tmp_path, 1)[name], value) for name, value in expected.items())


@torch.no_grad()
def test_the_exported_adapter_gives_the_same_logits(run: Path, random_host: Path, tmp_path: Path) -> None:
    trained = weights(run, 0)
    folder = export(str(run), str(tmp_path / "adapter"))
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == {name.removeprefix("compressor.") for name in trained}
    params = json.loads((folder / "config.json").read_text())["params"]
    assert (params["num_layers"], params["dim"], params["heads"]) == (1, 32, 2)
    loaded = framefold.load(folder, budget=0.25)
    assert not loaded.is_untrained
    own = framefold.build(NAME, 0.25)
    host = AutoModelForImageTextToText.from_pretrained(random_host).eval()
    size = host.config.vision_config.image_size
    with pytest.warns(UntrainedCompressorWarning, match=f"it computes what {FAST} computes"):
        framefold.attach(host, own)
    framefold.detach(host)
    own.load_state_dict({name.removeprefix("compressor."): value for name, value in trained.items()})
    placeholders = [host.config.video_token_id] * (VIDEO_FRAMES * 16 + 1)
    inputs = {
        "input_ids": torch.tensor([[5, *placeholders, 7, 9, 11]]),
        "pixel_values_videos": torch.randn(1, VIDEO_FRAMES, 3, size, size, generator=torch.Generator().manual_seed(0)),
    }
    found = {}
    for name, compressor in {"loaded": loaded, "own": own, "counterpart": framefold.build(FAST, 0.25)}.items():
        with framefold.attach(host, compressor):
            found[name] = host(**inputs).logits
    assert torch.equal(found["loaded"], found["own"])
    assert not torch.allclose(found["loaded"], found["counterpart"], atol=1e-4)
