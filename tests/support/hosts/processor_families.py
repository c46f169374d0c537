"""Run every family through its real processor: answers about a video, features for training, and training.

Usage: ``python -m tests.support.hosts.processor_families FOLDER [FAMILY ...]``.

For each family it writes a host to FOLDER/hosts, features of FOLDER/videos to FOLDER/features, and one entry to
FOLDER/results.json. Without names it runs every family, also lets each answer questions, and writes the weights of a
compressor that was trained on the videos to FOLDER/trained. It is a separate process, because torchvision must be found
before transformers is imported.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.models.auto import tokenization_auto

from framefold.training.frozen_host.torchvision import find_torchvision
from tests.support.hosts.tiny_families import HOSTS

# transformers loads the tokenizers of these hosts as byte-level BPE, whatever their files say
tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.difference_update(("qwen3_5", "qwen3_5_moe"))

KEPT = 5  # tokens
QUESTION = "what is it ?"
TIMES = np.array([0, 0.25, 0.5, 1, 2.25, 2.5, 4, 4.25, 6, 7.5])  # seconds of a video with a variable frame rate

FEATURED = [name for name in HOSTS if name != "molmo2"]  # where questions can share a prefix

LENGTHS = (7, 5, 8, 6)  # frames of the videos for training
QUESTIONS = [("what is it ?", "a video"), ("is it 12 frames ?", "you"), ("what is the Time", "3")]  # known words
SHOWN = ("glm4v", "llava_onevision", "qwen3_vl", "smolvlm")  # one host of each kind of processor
COMPRESSORS: dict[str, tuple[str, float]] = {
    "all": ("identity", 1.0),
    "few": ("st_simdiff", KEPT),
    "query": ("qtsplus", KEPT),
}
IN_LLM: dict[str, tuple[str, float]] = {"pruned": ("fastv", 0.7), "merged": ("at_layer", 0.7)}
LOSSES = {"kl": 1.0, "attention": 1.0, "evidence": 1.0}


def noise(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Return frames of 16 x 24 pixels in blocks of 4 x 4, which no processor smooths away."""
    return rng.integers(0, 255, (frames, 4, 6, 3), np.uint8).repeat(4, 1).repeat(4, 2)


# ---- answers --------------------------------------------------------------------------------------------------------


def answer_trial(name: str, folder: Path) -> dict[str, Any]:
    """Return what ``framefold answer`` and ``framefold show`` report for a video."""
    from framefold.adapters.hosts import prepare
    from framefold.data.video.codec import encode_video
    from framefold.data.video.frame_reader import sample_frames
    from framefold.evaluation.inspection.answer import answer_command
    from framefold.evaluation.inspection.show import show_command
    from framefold.training.frozen_host.load import load_model
    from framefold.training.frozen_host.processor import build_inputs, load_processor
    from tests.support.hosts.tiny_processors import Probe

    host, file = str(folder / "hosts" / name), folder / "video.mp4"
    frames = noise(np.random.default_rng(0), len(TIMES))
    frames[:, :8] = 128  # static parts, which a processor may drop
    file.write_bytes(encode_video(frames, TIMES, crf=0))
    common: dict[str, Any] = {"frames": 7, "max_new_tokens": 3, "repeats": 1}
    full = answer_command(host, str(file), QUESTION, "identity", compare=True, **common)
    few = answer_command(host, str(file), QUESTION, "tests.support.hosts.tiny_processors.Probe", KEPT, **common)
    video, query = Probe.video, Probe.query
    single = answer_command(host, str(file), QUESTION, "uniform", 3, **common | {"frames": 1})
    picture = None
    if name in SHOWN:
        path = folder / f"{name}.png"
        show_command(str(file), ["st_simdiff"], str(folder / "single.png"), host, 3, frames=1)
        show_command(str(file), ["st_simdiff"], str(path), host, KEPT, frames=7, columns=3)
        picture = path.read_bytes()[:4].hex()

    processor, sample = load_processor(host), sample_frames(file, 7)
    inputs = build_inputs(processor, sample, QUESTION)
    model = load_model(host, "float32", torch.device("cpu"))
    prepared = prepare(model, inputs, Probe(KEPT), generation=True, tokenizer=processor)
    ids = processor.tokenizer(QUESTION, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return {
        "full": summary(full),
        "few": summary(few),
        "png": picture,
        "single": [single.visual, single.compressed.visual],
        "columns": [prepared.compaction.n_before, prepared.compaction.n_after],
        "kept": len(prepared.tokens[0]),
        "grid": video.grid,
        "question": query.shape == (4, 32) and torch.equal(query, model.get_input_embeddings()(ids)[0]),
        "times": video.times.tolist(),
        "sampled": sample.times.tolist(),
        "prompt": "".join(processor.tokenizer.decode(inputs["input_ids"][0]).split()),
    }


# ---- features and training ------------------------------------------------------------------------------------------


def summary(answer: Any) -> dict[str, Any]:
    """Return what JSON can hold of an answer."""
    return asdict(replace(answer, tokens=None, sheet=None))


def write_videos(folder: Path) -> Path:
    """Write two shards of two videos with uneven times."""
    from framefold.data.question import SCHEMA_VERSION
    from framefold.data.shards.index import VIDEOS
    from framefold.data.shards.writer import PackedSample, ShardFolder

    shards = ShardFolder[int](str(folder), VIDEOS, SCHEMA_VERSION, {"made": "by hand"}, "a test")
    shards.write([0, 2], lambda first: (PackedSample(*packed_video(first + i)) for i in range(2)))
    return folder


def packed_video(number: int) -> tuple[str, dict[str, bytes], int]:
    """Return the files of a video with one or two questions, whose evidence is in frame 3."""
    from framefold.data.question import SCHEMA_VERSION
    from framefold.data.video.codec import encode_video

    rng, length = np.random.default_rng(number), LENGTHS[number]
    pixels = noise(rng, length)
    times = np.cumsum(rng.integers(200, 2000, length)) / 1000
    start, count = 2 * number % 3, 2 - number % 2
    questions = [
        {"type": "any", "text": text, "answer": answer, "choices": [], "evidence": [[3, 0.0, 0.0, 0.5, 0.34]]}
        for text, answer in (QUESTIONS * 2)[start : start + count]
    ]
    notes = {"schema": SCHEMA_VERSION, "times": (times - times[0]).tolist(), "questions": questions}
    files = {"mp4": encode_video(pixels, times - times[0], crf=0), "json": json.dumps(notes).encode()}
    return f"video-{number}", files, length


def feature_trial(name: str, folder: Path) -> dict[str, Any]:
    """Compare the features of one family with what its host computes from the full prompts."""
    from framefold.adapters import build
    from framefold.training.frozen_host.batch import answer_questions, encode_batch
    from framefold.training.frozen_host.load import load_host
    from framefold.training.frozen_host.write_features import features
    from tests.support.hosts.bare_hosts import FULL_ATTENTION_HOSTS

    features(str(folder / "videos"), str(folder / "hosts" / name), str(folder / "features" / name), store="float32")
    host: Any = load_host(folder / "hosts" / name)
    videos, stored = samples(folder / "videos"), samples(folder / "features" / name)
    encoded = [host.encode_sample(sample) for sample in videos]
    batch = encode_batch(host, stored)
    torch.manual_seed(0)
    settings = COMPRESSORS | (IN_LLM if name in FULL_ATTENTION_HOSTS else {})
    compressors: dict[str, Any] = {key: build(*chosen).eval() for key, chosen in settings.items()}
    logits = {key: answer_questions(host, compressor, batch).logits for key, compressor in compressors.items()}
    errors: dict[str, list[float]] = {key: [] for key in compressors}
    differences: dict[str, list[float]] = {key: [] for key in compressors if key != "all"}
    positions = []
    questions = [(i, j) for i, sample in enumerate(stored) for j in range(len(sample.questions))]
    for row, (i, j) in enumerate(questions):
        text = stored[i].questions[j].text
        expected, all_positions = run_full_prompt(host, compressors, videos[i], text, batch.times[i])
        for key in compressors:
            errors[key].append(max_error(logits[key][row, 0], expected[key]))
        for key in differences:
            differences[key].append(max_error(expected["all"], expected[key]))
        steps = torch.arange(len(stored[i].prompts[j]))
        tail = (stored[i].start + steps).expand(*all_positions.shape[:-1], -1)
        joined = torch.cat([stored[i].positions, tail], -1)
        positions.append(torch.equal(joined, all_positions[..., : joined.shape[-1]]))
    first, decode = stored[0], host.tokenizer.decode
    single = host.encode_sample(videos[0].subsample(1))
    return {
        "same": all(map(same_sample, encoded, stored)),
        "errors": errors,
        "differences": differences,
        "positions": positions,
        "grid": list(first.features.shape[:3]),
        "replies": [decode(reply) for reply in first.replies],
        "follow_up": follow_up(host, videos[0]),
        "ends": [decode(prompt).replace(" ", "").lower()[-10:] for prompt in first.prompts],
        "single": [*single.features.shape[:3], *single.times.tolist()],
        "steps": [box[0] for box in first.questions[0].evidence],
        "left": first.questions[0].evidence[0][2:5:2],
        "layers": len(first.deepstack),
        "times": [videos[3].times.tolist(), stored[3].times.tolist()],
        "columns": {key: value.tolist() for key, value in batch.inputs.items() if key.endswith("type_ids")},
        "attention": attention_shape(host, videos[0]),
    }


def attention_shape(host: Any, sample: Any) -> list[int] | None:
    """Return the (T, H, W) of the attention that the tokens of a video receive, None if the host has no encoder."""
    from framefold.errors import UnsupportedHostError

    try:
        return list(host.encode_sample(sample, attention=True).attention.shape)
    except UnsupportedHostError:
        return None


def follow_up(host: Any, video: Any) -> dict[str, Any]:
    """Encode two questions, the second of which follows the first; return its text and both prompts without blanks."""
    from framefold.data.question import FollowUp
    from framefold.training.frozen_host.processor import write_prompt

    first, (text, answer) = video.questions[0], QUESTIONS[1]
    second = FollowUp("any", text, answer, (), (), history=((first.text, first.answer),))
    encoded = host.encode_sample(replace(video, questions=(first, second)))
    prompts = [host.tokenizer.decode(prompt).replace(" ", "").lower() for prompt in encoded.prompts]
    return {"text": write_prompt(host.processor, text, second.history), "prompts": prompts}


def same_sample(encoded: Any, stored: Any) -> bool:
    """Return whether a sample encoded just now equals one that was stored."""
    texts = [(sample.prompts, sample.replies, sample.start) for sample in (encoded, stored)]
    tensors = stored.tensors()
    return texts[0] == texts[1] and all(torch.equal(value, tensors[key]) for key, value in encoded.tensors().items())


def train(
    host: Path, shards: Path, compressor: str = "qtsplus", **settings: Any
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Train for two steps; return the module and the initial weights of its compressor."""
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


def max_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max().detach())


def samples(folder: Path) -> list[Any]:
    """Return all samples of a folder of shards."""
    from webdataset.tariterators import tarfile_samples

    from framefold.data.shards.index import read_index
    from framefold.data.shards.sample import unpack_sample

    raws = (raw for shard in read_index(folder).shards for raw in tarfile_samples([{"url": shard.path}]))
    return [unpack_sample(raw["__key__"], raw) for raw in raws]


def run_full_prompt(
    host: Any, compressors: dict[str, Any], sample: Any, question: str, times: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Run the host from pixels on the full prompt that its processor writes.

    Returns:
        Its last logits with each compressor attached, with none for "all"; and the positions of all columns.
    """
    from framefold.adapters.hosts import attach
    from framefold.training.frozen_host.device import move_inputs
    from framefold.training.frozen_host.processor import build_inputs
    from framefold.training.frozen_host.processor_host import processor_frames

    inputs = move_inputs(build_inputs(host.processor, processor_frames(sample), question), host.model)
    arguments: dict[str, Any] = {"times": [times]}
    if "pixel_values_videos" not in inputs:
        arguments["clips"] = [0] * len(sample.frames)
    with torch.no_grad():
        logits = {"all": host.model(**inputs).logits[0, -1]}
        for key in [key for key in compressors if key != "all"]:
            with attach(host.model, compressors[key], tokenizer=host.processor):
                logits[key] = host.model(**inputs, **arguments).logits[0, -1]
    positions = host.family.positions(host.model, inputs, torch.ones_like(inputs["input_ids"]), False)
    return logits, positions[..., 0, :]


def main(folder: Path, *names: str) -> None:
    """Run the families; FOLDER gets a replacement for num2words, which SmolVLM's processor needs."""
    find_torchvision()
    (folder / "num2words.py").write_text("def num2words(number):\n    return str(number)\n")
    sys.path.append(str(folder))  # last, so that an installed one is used
    from tests.support.hosts.tiny_processors import FAMILIES, save_host

    write_videos(folder / "videos")
    (folder / "trained").mkdir()
    results = {}
    for name in names or FAMILIES:
        host = save_host(name, folder / "hosts" / name)
        results[name] = {"features": feature_trial(name, folder)} if name in FEATURED else {}
        if not names:
            results[name]["answer"] = answer_trial(name, folder)
        if not names and name in FEATURED:
            state = train(host, folder / "videos", losses=LOSSES)[0].compressor.state_dict()
            weights = {key: value.contiguous() for key, value in state.items()}
            save_file(weights, folder / "trained" / f"{name}.safetensors")
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
