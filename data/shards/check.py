"""Opening every sample of shards, and reporting damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from framefold.data.question import SPECIAL_TOKEN
from framefold.errors import DataError
from framefold.progress import progress_bar

from .index import Shard
from .sample import Sample, check_special_tokens, unpack_sample
from .sources import error_reason, read_samples, resolve_shards


def check_shards(shards: str, index: str | None = None, special_tokens: Collection[str] | None = None) -> int:
    """Open every sample of shards, and report what is damaged.

    Args:
        shards: folder that ``framefold shards`` wrote, tar files, globs, brace lists, URLs or ``pipe:`` commands.
        index: file or URL of their index, if it is not next to them.
        special_tokens: those of a host, which texts must not contain; None for those of all supported hosts.

    Returns:
        0 if all samples are intact, 1 otherwise.

    Raises:
        DataError: there are no shards, or they have no index and need one.
    """
    listed = resolve_shards(shards, index)
    intact, problems, keys = 0, list[str](), Counter[str]()
    with progress_bar(what=f"check {shards}", total=listed.samples, unit="sample") as bar:
        for shard in listed.shards:
            for key, problem in _check_shard(shard, special_tokens):
                keys[key] += bool(key)
                problems += filter(None, [problem])
                intact += not problem
                bar.update(bool(key))
    problems += [f"the key {key} is used {count} times" for key, count in keys.items() if count > 1]
    report = "\n".join([*problems, f"{intact} of {listed.samples} samples are intact"])
    print(report.encode(errors="backslashreplace").decode())  # names in a tar need not be valid UTF-8
    return 1 if problems else 0


def _check_shard(shard: Shard, special_tokens: Collection[str] | None) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every sample, "" if there is none, and ("", problem) if the shard itself has one."""
    errors: list[Exception] = []

    def record(error: Exception) -> bool:
        errors.append(error)
        return True

    count = 0
    for count, raw in enumerate(read_samples(shard.path, record), start=1):
        yield str(raw["__key__"]), _sample_problem(raw, shard, count - 1, special_tokens)
    if errors or count != shard.samples:
        yield "", f"{shard.path}: {count} of {shard.samples} samples can be read{error_reason(errors)}"


def _sample_problem(raw: dict[str, Any], shard: Shard, position: int, special_tokens: Collection[str] | None) -> str:
    try:
        sample = unpack_sample(raw["__key__"], raw)
        check_special_tokens(sample.key, sample.questions, special_tokens or ())
    except DataError as error:
        return str(error)
    indexed = shard.lengths[position] if position < len(shard.lengths) else sample.length
    if sample.length != indexed:
        return f"{sample.key} has length {sample.length}, but the index of {shard.path} says {indexed}"
    return _special_token(sample) if special_tokens is None else ""


def _special_token(sample: Sample) -> str:
    """Return a message if a text contains what is a special token of some hosts; the host is not known here."""
    for number, question in enumerate(sample.questions):
        for name in ("text", "answer"):
            if found := SPECIAL_TOKEN.search(getattr(question, name)):
                where = f"{sample.key}.json: questions[{number}].{name}"
                return f"{where} contains {found[0]!r}, a special token of some hosts: reword it, or give your --host"
    return ""
