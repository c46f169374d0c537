"""What an evaluation on lmms-eval's benchmarks is made with: all that decides its answers, kept beside them.

Nothing here may import transformers when it is imported itself: torchvision is found later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.pretrained.config import CONFIG
from framefold.errors import ConfigError, EvalError
from framefold.evaluation.results.provenance import HOST_FILES
from framefold.files import replace_file
from framefold.messages import short

FILE = "settings.json"

WHOLE = 64 * 2**20  # bytes; of larger files the ends are read

TASK_FILES = {".yaml", ".yml", ".py", ".json", ".jsonl"}


@dataclass(frozen=True)
class EvalSettings:
    """All that decides the answers to the questions of a task.

    Attributes:
        host: folder or Hub id; host_revision: digest of the folder or commit on the Hub.
        compressor: as it was given, a name, a folder or a Hub id; budget: of the visual tokens, as share or number.
        params: of the compressor's constructor. adapter: SHA-256 of its weights, None without.
        allow_other_host: an adapter that was trained in another host is taken. row: its name in tables.
        frames: taken of each video. positions: see :func:`framefold.attach`.
        max_new_tokens: longest answer where a task does not say.
        dtype: of the weights. device: where the host runs; answers do not depend on it.
        limit: questions of each task, None: all. tasks: digest of tasks of one's own.
    """

    host: str
    compressor: str
    budget: float | int | str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    frames: int = 64
    positions: Literal["preserve", "compact"] = "preserve"
    max_new_tokens: int = 64
    dtype: str = "auto"
    device: str | None = None
    limit: int | None = None
    host_revision: str = ""
    adapter: str | None = None
    allow_other_host: bool = False
    row: str = ""
    tasks: str = ""

    @property
    def text(self) -> str:
        """As JSON; equal texts are equal settings."""
        return json.dumps(asdict(self), sort_keys=True)


def settings_of(given: Mapping[str, Any]) -> EvalSettings:
    """Settings out of a mapping, such as the arguments of lmms-eval's ``--model_args``.

    Raises:
        ConfigError: an unknown name, or one that is missing.
    """
    names = {entry.name for entry in fields(EvalSettings)}
    if unknown := sorted(given.keys() - names):
        raise ConfigError(f"there is no setting {unknown[0]!r}; known: {', '.join(sorted(names))}")
    if missing := [name for name in ("host", "compressor") if not given.get(name)]:
        raise ConfigError(f"no {missing[0]} is given: {missing[0]}=...")
    return EvalSettings(**given)


def resolve_settings(
    settings: EvalSettings, plugged: Compressor, source: str, include_path: str | None
) -> EvalSettings:
    """Settings with what the compressor's adapter, the host and tasks of one's own are found to be.

    Args:
        plugged: the compressor. source: its name or folder, where it was given as a Hub id.
        include_path: folder with tasks.

    Raises:
        HostError: there is no host. AdapterFileError, ConfigError: from the adapter or the folder of tasks.
    """
    adapter, lora = digest_of(source)
    found = {
        "budget": plugged.budget,
        "params": json_value(plugged.params()),
        "adapter": adapter,
        "row": plugged.name + (" (LoRA)" if lora else ""),
        "host_revision": host_revision(settings.host),
        "tasks": tasks_digest(include_path),
    }
    return EvalSettings(**{**asdict(settings), **found})


def digest_of(source: str) -> tuple[str | None, bool]:
    """Digest of an adapter folder and whether there is LoRA in it; None where it is no folder but a name."""
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        return None, False
    from framefold.adapters.hosts.lora.config import has_lora
    from framefold.adapters.hosts.lora.digest import adapter_digest

    return adapter_digest(folder), has_lora(folder)


def claim(out: Path, settings: EvalSettings) -> None:
    """Make a results folder that of these settings; its tasks have all the same.

    Raises:
        ConfigError: it holds results of others; the message says in what they differ.
    """
    out.mkdir(parents=True, exist_ok=True)
    new = json.loads(settings.text)
    old = read_settings(out) if (out / FILE).is_file() else new
    if (name := difference(old, new)) is not None:
        was, now = short(old.get(name)), short(new.get(name))
        raise ConfigError(f"{out} holds results with {name} {was}, not {now}: give another --out, or delete it")
    replace_file(out / FILE, lambda beside: beside.write_text(json.dumps(new, indent=2) + "\n"))


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first setting in which two evaluations differ; where they run makes no difference."""
    names = [name for name in {**one, **other} if name != "device" and one.get(name) != other.get(name)]
    return names[0] if names else None


def read_settings(out: Path) -> dict[str, Any]:
    """The settings of a results folder.

    Raises:
        EvalError: none there, or damaged ones.
    """
    try:
        settings = json.loads((out / FILE).read_text())
        if not isinstance(settings, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError as error:
        raise EvalError(f"no results in {out}: run 'framefold eval --out {out}' first") from error
    except (OSError, ValueError) as error:
        raise EvalError(f"{out / FILE} is damaged ({error}): delete it, and the results beside it") from error
    return settings


def host_revision(host: str) -> str:
    """What tells one state of a host from another: a digest of its folder, or its commit on the Hub.

    Raises:
        HostError: there is neither.
    """
    folder = Path(host)
    if (folder / "config.json").is_file():
        return _digest(file for file in folder.iterdir() if file.is_file() and file.suffix in HOST_FILES)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(host, "config.json")).parent.name
    except (OSError, ValueError) as error:
        from framefold.errors import HostError

        text = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise HostError(f"there is no host to load in {host!r}: {text}") from error


def tasks_digest(folder: str | None) -> str:
    """Digest of a folder with tasks of one's own, "" without one.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is None:
        return ""
    if not Path(folder).is_dir():
        raise ConfigError(f"there is no folder {folder} to include tasks from")
    return _digest(file for file in Path(folder).rglob("*") if file.is_file() and file.suffix in TASK_FILES)


def json_value(value: Any) -> Any:
    """A value as JSON can hold it: numbers of numpy as numbers, what is not finite as None, others as text."""
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_value(entry) for entry in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if isinstance(value, bool | int | str) else str(value)


def _digest(files: Iterable[Path]) -> str:
    """SHA-256 of names and contents; a host's gigabytes of weights by their size, their header and their end."""
    lines = []
    for file in files:
        size, whole = file.stat().st_size, hashlib.sha256()
        with file.open("rb") as content:
            whole.update(content.read(WHOLE))
            if size > WHOLE:
                content.seek(max(WHOLE, size - WHOLE))
                whole.update(content.read())
        lines.append(f"{file.name} {size} {whole.hexdigest()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
