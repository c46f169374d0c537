"""Run hosts that take frames as images through their real processors: videos beside pictures, and several of each.

Usage: ``python -m tests.support.hosts.picture_trials FOLDER``, which writes FOLDER/trials.json with one entry for each
case. It is a separate process, because torchvision must be found before transformers is imported.

Parts of a row: a number above 0 is a video of as many frames, PICTURE a picture of one tile, TILES one of several.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framefold.training.frozen_host.torchvision import find_torchvision

PICTURE, TILES = 0, -1
SIDE = 4  # placeholders of an image
KEPT = 3  # tokens of each video
NATIVE: dict[str, list[list[int]]] = {  # rows that the processors write in one call; SmolVLM's mixes up the pixels
    "internvl": [[3], [1], [PICTURE], [TILES], [PICTURE] * 2, [2, 2], [PICTURE, 4], [4, PICTURE], [2, PICTURE, 2]],
    "smolvlm": [[3], [1], [PICTURE], [TILES], [PICTURE] * 2, [2, 2], [2, 4], [TILES, PICTURE]],
}
JOINED: dict[str, list[list[int]]] = {  # rows that are joined from separate calls, as packing does, and batches of them
    "videos of unequal length": [[4, 2]],
    "videos of one frame": [[1, 1, 3]],
    "a picture before": [[PICTURE, 4]],
    "a picture after": [[4, PICTURE]],
    "a picture between": [[3, PICTURE, 2]],
    "tiles beside": [[TILES, 4, TILES]],
    "pictures in a row": [[PICTURE, PICTURE, PICTURE, 2, PICTURE, PICTURE]],
    "pictures only": [[PICTURE, TILES, PICTURE]],
    "rows of different kinds": [[3, 2], [PICTURE], [TILES, 1], [2, PICTURE, 2]],
    "rows of pictures": [[PICTURE], [PICTURE, TILES]],
}


class Family:
    """A tiny host with its processor."""

    def __init__(self, name: str, folder: Path) -> None:
        from framefold.training.frozen_host.load import load_model
        from framefold.training.frozen_host.processor import load_processor
        from tests.support.hosts.tiny_processors import save_host

        host = str(save_host(name, folder / name))
        self.name, self.rng = name, np.random.default_rng(0)
        self.model, self.processor = load_model(host, "float32", torch.device("cpu")), load_processor(host)

    def noise(self, *shape: int) -> np.ndarray:
        return self.rng.integers(1, 255, shape, np.uint8)

    def call(self, parts: list[int], question: str = "is it ?") -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (L,) ids and the (images, channels, side, side) pixels that the processor writes for a row."""
        from PIL import Image
        from transformers.video_utils import VideoMetadata

        marks = {True: self.processor.video_token, False: self.processor.image_token}
        text = " ".join([*(marks[part > 0] for part in parts), question])
        wide = 32 if TILES in parts else 16
        images = [Image.fromarray(self.noise(16, wide if part == TILES else 16, 3)) for part in parts if part <= 0]
        videos = [torch.from_numpy(self.noise(part, 3, 16, 24)) for part in parts if part > 0]
        settings: dict[str, Any] = {}
        if images:
            settings["images"] = images if self.name == "internvl" else [images]
            tiles = {"crop_to_patches": TILES in parts, "max_patches": 2}
            size = {"size": {"longest_edge": wide}, "max_image_size": {"longest_edge": 16}}
            settings["images_kwargs"] = tiles if self.name == "internvl" else size
        if videos:
            kinds = {"total_num_frames": 8, "fps": 2.0, "width": 24, "height": 16, "duration": 4.0}
            metadata = [VideoMetadata(**kinds, frames_indices=list(range(len(video)))) for video in videos]
            settings |= {"videos": [videos], "video_metadata": metadata, "do_sample_frames": False}
        inputs = self.processor(text=[text], return_tensors="pt", **settings)
        pixels = inputs["pixel_values"].flatten(0, -4)
        return inputs["input_ids"][0], pixels[(pixels != 0).flatten(1).any(1)]  # without frames that fill up a video

    def batch(self, rows: list[list[tuple[torch.Tensor, torch.Tensor]]], side: str) -> dict[str, Any]:
        """Join what the processor wrote for parts of rows to a batch."""
        pad = self.processor.tokenizer.pad_token_id
        ids = [torch.cat([part for part, _ in row]) for row in rows]
        images = [torch.cat([pixels for _, pixels in row]) for row in rows]
        if self.name == "internvl":
            pixels = torch.cat(images)
        else:  # rows with fewer images are filled with zeros
            pixels = torch.nn.utils.rnn.pad_sequence(images, batch_first=True)
        columns = torch.nn.utils.rnn.pad_sequence(ids, True, pad, padding_side=side)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], True, 0, padding_side=side)
        return {"input_ids": columns, "attention_mask": mask, "pixel_values": pixels}


def expected_clips(rows: list[list[int]], inputs: dict[str, Any]) -> list[int]:
    """Return the number of the video of each image, -1 for stills."""
    images = int((inputs["input_ids"] == 60).sum()) // SIDE
    parts = [part for row in rows for part in row]
    tiled = images - sum(max(part, 1) for part in parts if part != TILES)
    per_picture = tiled // max(parts.count(TILES), 1)
    clips: list[int] = []
    for number, part in enumerate(parts):
        clips += [number] * part if part > 0 else [-1] * (per_picture if part == TILES else 1)
    return clips


def trial(family: Family, rows: list[list[int]], inputs: dict[str, Any]) -> dict[str, Any]:
    """Compare an attached host with the bare one, and with itself where the caller names the clips."""
    import framefold
    from framefold.adapters import build
    from framefold.adapters.hosts import encode, prepare

    model, clips = family.model, expected_clips(rows, inputs)
    videos = [part for row in rows for part in row if part > 0]
    with torch.no_grad():
        bare = model(**inputs).logits
        tokens = model.generate(**inputs, max_new_tokens=2)
        found = [len(clip.features) for clip in encode(model, inputs) if not clip.is_still]
        embedded = {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
        del embedded["input_ids"]
        with framefold.attach(model, build("identity")):
            identity = torch.equal(model(**inputs).logits, bare)
            identity &= torch.equal(model.generate(**inputs, max_new_tokens=2), tokens)
        embeds = len(encode(model, embedded)) == len(encode(model, inputs))
        short = prepare(model, inputs, build("uniform", KEPT))
        with framefold.attach(model, build("uniform", KEPT), tokenizer=family.processor):
            embeds &= torch.equal(model(**embedded).logits, model(**inputs).logits)
            named = torch.equal(model(**inputs).logits, model(**inputs, clips=clips).logits)
            named &= torch.equal(model.generate(**inputs, max_new_tokens=2)[:, -2:],
                                 model.generate(**inputs, max_new_tokens=2, clips=clips)[:, -2:])  # fmt: skip
    kept = int((short.kwargs["input_ids"] == 60).sum())
    return {
        "found": found == videos,
        "identity": identity,
        "named": named,
        "embeds": embeds,
        "budgets": [len(out) for out in short.tokens] == [KEPT] * len(videos),
        "pictures": kept == KEPT * len(videos) + SIDE * clips.count(-1),
        "untouched": bool(videos) or short.prompt is None,
    }


def main(folder: Path) -> None:
    """Run all cases; FOLDER gets a replacement for num2words, which SmolVLM's processor needs."""
    find_torchvision()
    (folder / "num2words.py").write_text("def num2words(number):\n    return str(number)\n")
    sys.path.append(str(folder))  # last, so that an installed one is used
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    for name, native in NATIVE.items():
        family = Family(name, folder)
        for row in native:
            results[f"{name} {row}"] = trial(family, [row], family.batch([[family.call(row)]], "left"))
        for case, rows in JOINED.items():
            # with text only after the last part of a row
            parts = [[*(family.call([part], "") for part in row[:-1]), family.call(row[-1:])] for row in rows]
            for side in ("left", "right")[: len(rows)]:
                results[f"{name} {case}, {side}"] = trial(family, rows, family.batch(parts, side))
    (folder / "trials.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
