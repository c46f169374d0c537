"""Features of every family, made through its real processor.

Usage: ``python -m tests.support.hosts.fit_families FOLDER [FAMILY ...]``.

For each family it leaves a host in FOLDER/hosts, features of FOLDER/videos in FOLDER/features, what a compressor has
learned from the videos in FOLDER/trained, and one entry in results.json. A process of its own, because torchvision must
be found before transformers is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from framefold.training.frozen_host.torchvision import find_torchvision

LENGTHS = (7, 5, 8, 6)  # frames
ASKED = [("what is it ?", "a video"), ("is it 12 frames ?", "you"), ("what is the Time", "3")]  # known words
KEPT = 5
WAYS = {"whole": "identity", "few": "st_simdiff", "query": "qtsplus"}


def write_videos(folder: Path) -> Path:
    """Two shards of two videos of 16 x 24 pixels, with uneven times."""
    from framefold.data.question import SCHEMA_VERSION
    from framefold.data.shards.index import VIDEOS
    from framefold.data.shards.writer import PackedSample, ShardFolder

    shards = ShardFolder[int](str(folder), VIDEOS, SCHEMA_VERSION, {"made": "by hand"}, "a test")
    shards.write([0, 2], lambda first: (PackedSample(*video(first + i)) for i in range(2)))
    return folder


def video(number: int) -> tuple[str, dict[str, bytes], int]:
    """Noise in blocks of four pixels, which no processor smooths away; evidence is in frame 3."""
    from framefold.data.question import SCHEMA_VERSION
    from framefold.data.video.codec import encode_video

    draws, length = np.random.default_rng(number), LENGTHS[number]
    pixels = draws.integers(0, 255, (length, 4, 6, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    times = np.cumsum(draws.integers(200, 2000, length)) / 1000
    questions = [
        {"type": "any", "text": text, "answer": answer, "choices": [], "evidence": [[3, 0.0, 0.0, 0.5, 0.34]]}
        for text, answer in ASKED[: 2 + number % 2]
    ]
    notes = {"schema": SCHEMA_VERSION, "times": (times - times[0]).tolist(), "questions": questions}
    files = {"mp4": encode_video(pixels, times - times[0], crf=0), "json": json.dumps(notes).encode()}
    return f"video-{number}", files, length


def trial(name: str, folder: Path) -> dict[str, Any]:
    """Features of one family, compared with what the host itself makes of its full prompts."""
    from framefold.adapters import build
    from framefold.training.frozen_host.batch import answer_questions, encode_batch
    from framefold.training.frozen_host.load import load_host
    from framefold.training.frozen_host.write_features import features
    from tests.support.hosts.tiny_processors import save_host

    place = save_host(name, folder / "hosts" / name)
    features(str(folder / "videos"), str(place), str(folder / "features" / name), store="float32")
    host: Any = load_host(place)
    videos, stored = samples(folder / "videos"), samples(folder / "features" / name)
    seen = [host.encode_sample(sample) for sample in videos]
    same = all(
        torch.equal(tensor, two.tensors()[key]) and (one.prompts, one.replies, one.start) == parts(two)
        for one, two in zip(seen, stored, strict=True)
        for key, tensor in one.tensors().items()
    )
    asked = encode_batch(host, stored)
    results: dict[str, Any] = {"same": same, "whole": [], "few": [], "query": [], "differ": [], "positions": []}
    torch.manual_seed(0)
    ways: dict[str, Any] = {way: build(kind, KEPT).eval() for way, kind in WAYS.items()}
    logits = {way: answer_questions(host, compressor, asked).logits for way, compressor in ways.items()}
    questions = [(i, question) for i, sample in enumerate(stored) for question in sample.questions]
    for row, (i, question) in enumerate(questions):
        at = int((asked.rows.labels[row] != -100).int().argmax()) - 1
        alone, positions = by_itself(host, ways, videos[i], question.text, asked.times[i])
        for way in ways:
            results[way].append(error(logits[way][row, at], alone[way]))
        results["differ"] += [error(alone["whole"], alone[way]) for way in ("few", "query")]
        steps = torch.arange(len(stored[i].prompts[0]))
        tail = (stored[i].start + steps).expand(*positions.shape[:-1], -1)
        ours = torch.cat([stored[i].positions, tail], -1)
        results["positions"].append(torch.equal(ours, positions[..., : ours.shape[-1]]))
    first = stored[0]
    decode = host.tokenizer.decode
    trained = train(place, folder / "videos", "fila")[0].compressor.state_dict()
    save_file({key: value.contiguous() for key, value in trained.items()}, folder / "trained" / f"{name}.safetensors")
    return results | {
        "grid": list(first.features.shape[:3]),
        "reply": [decode(reply) for reply in first.replies],
        "ends": [decode(prompt).replace(" ", "").lower()[-10:] for prompt in first.prompts],
        "steps": [box[0] for box in first.questions[0].evidence],
        "left": first.questions[0].evidence[0][2:5:2],
        "layers": len(first.deepstack),
        "times": [videos[3].times.tolist(), stored[3].times.tolist()],
        "columns": {key: value.tolist() for key, value in asked.inputs.items() if key.endswith("type_ids")},
        "attention": list(host.encode_sample(videos[0], attention=True).attention.shape),
    }


def train(host: Path, shards: Path, compressor: str, **settings: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Two steps on shards; returns the module, and what the compressor began with."""
    import pytorch_lightning as pl

    from framefold.training.datamodule import VideoData
    from framefold.training.module import CompressorModule

    torch.manual_seed(0)
    module = CompressorModule(compressor, budget=KEPT, host=str(host), lr=0.01, warmup=0.0, **settings)
    module.configure_model()
    before = {name: value.clone() for name, value in module.compressor.state_dict().items()}
    quiet: Any = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_steps=2, limit_val_batches=0, **quiet)
    trainer.fit(module, datamodule=VideoData(str(shards), batch_size=2))
    return module, before


def parts(sample: Any) -> tuple[Any, ...]:
    return sample.prompts, sample.replies, sample.start


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max().detach())


def samples(folder: Path) -> list[Any]:
    """All samples of a folder of shards."""
    from webdataset.tariterators import tarfile_samples

    from framefold.data.shards.index import read_index
    from framefold.data.shards.sample import unpack_sample

    raws = (raw for shard in read_index(folder).shards for raw in tarfile_samples([{"url": shard.path}]))
    return [unpack_sample(raw["__key__"], raw) for raw in raws]


def by_itself(
    host: Any, ways: dict[str, Any], sample: Any, question: str, times: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The host on the full prompt that its processor writes, from pixels.

    Returns:
        Its last logits with each compressor attached, without any for the first, and the positions of all columns.
    """
    from framefold.adapters.hosts import attach
    from framefold.training.frozen_host.device import move_inputs
    from framefold.training.frozen_host.processor import build_inputs
    from framefold.training.frozen_host.processor_host import processor_frames

    inputs = move_inputs(build_inputs(host.processor, processor_frames(sample), question), host.model)
    told: dict[str, Any] = {"times": [times]}
    if "pixel_values_videos" not in inputs:
        told["clips"] = [0] * len(sample.frames)
    with torch.no_grad():
        logits = {"whole": host.model(**inputs).logits[0, -1]}
        for way in ("few", "query"):
            with attach(host.model, ways[way], tokenizer=host.processor):
                logits[way] = host.model(**inputs, **told).logits[0, -1]
    positions = host.family.positions(host.model, inputs, torch.ones_like(inputs["input_ids"]), False)
    return logits, positions[..., 0, :]


def main(folder: Path, *names: str) -> None:
    """Every family, or those named; the folder gets a stand-in for num2words, which SmolVLM's processor wants."""
    find_torchvision()
    (folder / "num2words.py").write_text("def num2words(number):\n    return str(number)\n")
    sys.path.append(str(folder))  # last: an installed one wins
    from tests.support.hosts.tiny_processors import FAMILIES

    write_videos(folder / "videos")
    (folder / "trained").mkdir()
    (folder / "results.json").write_text(json.dumps({name: trial(name, folder) for name in names or FAMILIES}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
