"""Manifest of a finished task: frames, pixels, prompt, task, harness and versions, from which it can be repeated."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from framefold.evaluation.results.provenance import git_state
from framefold.files import text_digest

from .answer_log import LoggedAnswer
from .settings import EvalSettings, json_value

HARNESS = "lmms_eval"

PACKAGES = (
    "framefold", "torch", "torchvision", "transformers", "tokenizers", "accelerate", "numpy", "pillow", "av",
    HARNESS, "datasets",
)  # fmt: skip

# Entries of a task's configuration in lmms-eval that determine questions, prompts, answers and scores.
TASK_FIELDS = (
    "dataset_path", "dataset_name", "test_split", "output_type", "generation_kwargs", "lmms_eval_specific_kwargs",
    "metadata",
)  # fmt: skip


def task_manifest(
    task: str, settings: EvalSettings, results: Mapping[str, Any], answers: Sequence[LoggedAnswer]
) -> dict[str, Any]:
    """Return the manifest of a task.

    Args:
        task: name of the task.
        settings: settings of the evaluation.
        results: results that lmms-eval returned.
        answers: logged answers of the task; those of earlier versions have neither pixels nor prompts.

    Returns:
        ``host`` and ``frames`` (asked for, and smallest and largest number sampled), ``pixels`` of a frame as encoded
        (smallest, median, largest; None if unknown), ``prompt`` (the first one in full, and a digest of all), ``tasks``
        (their configuration in lmms-eval), ``harness`` (name, version, commit), ``git`` of framefold, ``versions``.
    """
    configs = results.get("configs", {})
    frames, pixels = [one["frames"] for one in answers], [one["pixels"] for one in answers if "pixels" in one]
    return json_value(
        {
            "task": task,
            "host": {"name": settings.host, "revision": settings.host_revision, "dtype": settings.dtype},
            "frames": {"asked": settings.frames, "sampled": _range(frames)},
            "pixels": [min(pixels), statistics.median(pixels), max(pixels)] if pixels else None,
            "prompt": _prompt(answers),
            "tasks": {name: {field: one.get(field) for field in TASK_FIELDS} for name, one in configs.items()},
            "harness": {"name": HARNESS, "version": _version(HARNESS), "commit": _commit(HARNESS)},
            "git": git_state(),
            "versions": {name: _version(name) for name in PACKAGES},
        }
    )


def _range(numbers: Sequence[int]) -> list[int] | None:
    return [min(numbers), max(numbers)] if numbers else None


def _prompt(answers: Sequence[LoggedAnswer]) -> dict[str, str | None]:
    """Return the first prompt and a digest of all of them, in the order of the questions."""
    texts = [one["prompt_text"] for one in answers if "prompt_text" in one]
    ordered = sorted(answers, key=lambda one: (one["task"], str(one["doc_id"]).rjust(9)))
    digests = [one["prompt_digest"] for one in ordered if "prompt_digest" in one]
    return {"first": next(iter(texts), None), "digest": text_digest("\n".join(digests)) if digests else None}


def _version(package: str) -> str | None:
    found = _distribution(package)
    return None if found is None else found.version


def _commit(package: str) -> str | None:
    """Return the commit that a package was installed from; None if it was installed from an index.

    Installers record in ``direct_url.json`` what a package was installed from: a repository, or an editable folder.
    """
    found = _distribution(package)
    source = json.loads((found and found.read_text("direct_url.json")) or "{}")
    if (commit := source.get("vcs_info", {}).get("commit_id")) is not None:
        return str(commit)
    folder = Path(source.get("url", "").removeprefix("file://"))
    state = git_state(folder) if source.get("dir_info") is not None and folder.is_dir() else None
    return None if state is None else f"{state['commit']}{' with changes' if state['dirty'] else ''}"


def _distribution(package: str) -> Distribution | None:
    try:
        return distribution(package)
    except PackageNotFoundError:
        return None
