"""Run ``answer`` on a tiny host of every family with its real processor.

Usage: ``python -m tests.support.hosts.answer_families FOLDER``.

It writes results.json with one entry a family. A process of its own, because torchvision must be found before
transformers is imported.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framefold.training.frozen_host.torchvision import find_torchvision

TIMES = np.array([0, 0.25, 0.5, 1, 2.25, 2.5, 4, 4.25, 6, 7.5])  # seconds; not evenly, as phones record


def trial(model_type: str, folder: Path) -> dict[str, Any]:
    from framefold.adapters.hosts import prepare
    from framefold.data.video.codec import encode_video
    from framefold.data.video.frame_reader import sample_frames
    from framefold.evaluation.inspection.answer import answer
    from framefold.evaluation.inspection.show import show
    from framefold.training.frozen_host.load import load_model
    from framefold.training.frozen_host.processor import build_inputs, load_processor
    from tests.support.hosts.tiny_processors import Probe, save_host

    host, file, question = save_host(model_type, folder / model_type), folder / "video.mp4", "what is it ?"
    frames = np.random.default_rng(0).integers(0, 255, (len(TIMES), 4, 6, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    frames[:, :8] = 128  # what stands still, a processor may want to drop
    file.write_bytes(encode_video(frames, TIMES, crf=0))
    common: dict[str, Any] = {"frames": 7, "max_new_tokens": 3, "repeats": 1}
    whole = answer(str(host), str(file), question, "identity", compare=True, **common)
    few = answer(str(host), str(file), question, "tests.support.hosts.tiny_processors.Probe", 5, **common)
    seen, asked = Probe.seen, Probe.asked
    images = model_type in ("internvl", "smolvlm")  # a single image could be a still
    lone = answer(str(host), str(file), question, "uniform", 3, **common | {"frames": 1}) if images else None

    picture = show(str(file), "st_simdiff", str(folder / f"{model_type}.png"), str(host), 5, frames=7, columns=3)

    processor, sample = load_processor(str(host)), sample_frames(file, 7)
    inputs = build_inputs(processor, sample, question)
    model = load_model(str(host), "float32", torch.device("cpu"))
    prepared = prepare(model, inputs, Probe(5), generation=True, tokenizer=processor)
    bare = processor.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return {
        "whole": asdict(whole),
        "few": asdict(few),
        "drawn": picture.read_bytes()[:4].hex(),
        "lone": lone and [lone.visual, lone.compressed.visual],
        "columns": [prepared.compaction.n_before, prepared.compaction.n_after],
        "kept": len(prepared.tokens[0]),
        "grid": seen.grid,
        "asked": asked.shape == (4, 32) and torch.equal(asked, model.get_input_embeddings()(bare)[0]),
        "times": [] if seen.times is None else seen.times.tolist(),
        "sampled": sample.times.tolist(),
        "prompt": "".join(processor.tokenizer.decode(inputs["input_ids"][0]).split()),
    }


def main(folder: Path) -> None:
    """Every family; the folder also gets a stand-in for num2words, which SmolVLM's processor wants."""
    find_torchvision()
    (folder / "num2words.py").write_text("def num2words(number):\n    return str(number)\n")
    sys.path.append(str(folder))  # last: an installed one wins
    from tests.support.hosts.tiny_processors import FAMILIES

    (folder / "results.json").write_text(json.dumps({name: trial(name, folder) for name in FAMILIES}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
