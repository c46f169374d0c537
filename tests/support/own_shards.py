"""Shards as users write them, some of whose samples are damaged in one field."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framefold.data.shards.sources import index_shards
from framefold.data.synthetic.recipe import Recipe, pack_sample

NAN = float("nan")

# field that a message must name -> changes of the json of a sample, or of its first question
BAD_SAMPLES: dict[str, dict[str, Any]] = {
    "questions[0].text": {"text": "what is in the <video> ?"},
    "questions[0].answer": {"answer": None},
    "questions[0].choices": {"choices": ["some", "other"]},
    "questions[0].evidence[0]": {"evidence": [[99, 0, 0, 1, 1]]},
    "times": {"times": [0.0, NAN, *range(2, 16)]},
}


def write_own_shards(folder: Path, samples: int, bad: Mapping[int, Mapping[str, Any]], per_shard: int = 8) -> Path:
    """Write short synthetic videos, some with other fields, and their index; keys are ``own-0`` and so on.

    Args:
        folder: to write to.
        samples: number of samples.
        bad: by number of the sample, new values for its json, or for its first question.
        per_shard: samples in a tar file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, samples, per_shard):
        with tarfile.open(folder / f"shard-{first:06d}.tar", "w") as tar:
            for number in range(first, min(first + per_shard, samples)):
                files = pack_sample(Recipe((16, 16), seed=3).video(number), crf=18)
                metadata = json.loads(files["json"])
                for name, value in bad.get(number, {}).items():
                    (metadata if name in metadata else metadata["questions"][0])[name] = value
                files["json"] = json.dumps(metadata).encode()
                for extension, content in files.items():
                    entry = tarfile.TarInfo(f"own-{number}.{extension}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    index_shards(str(folder))
    return folder
