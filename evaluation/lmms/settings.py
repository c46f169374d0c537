"""Settings of an evaluation on lmms-eval's benchmarks: everything that determines its answers, stored next to them.

Importing this module must not import transformers, since torchvision is found later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import display_name
from framefold.adapters.pretrained.config import CONFIG
from framefold.errors import ConfigError, EvalError
from framefold.evaluation.results.provenance import HOST_FILES
from framefold.evaluation.results.settings import LORA_SUFFIX
from framefold.files import bytes_digest, text_digest, write_json
from framefold.messages import short

FILE = "settings.json"

DIGEST_LIMIT = 64 * 2**20  # bytes; of larger files only the two ends are digested

TASK_FILES = {".yaml", ".yml", ".py", ".json", ".jsonl"}


@dataclass(frozen=True)
class EvalSettings:
    """Everything that determines the answers to the questions of a task.

    Attributes:
        host: folder or Hub id.
        compressor: registered name, adapter folder or Hub id, as given by the user.
        budget: share or number of the visual tokens to keep.
        params: constructor parameters of the compressor.
        frames: frames sampled from each video.
        positions: see :func:`framefold.attach`.
        max_new_tokens: largest length of an answer, unless the task sets one.
        dtype: dtype of the weights.
        device: device of the host; not compared, since answers do not depend on it.
        limit: number of questions of each task; None for all.
        host_revision: digest of the host's folder, or its commit on the Hub.
        adapter: SHA-256 of the adapter's weights; None without an adapter.
        allow_other_host: whether an adapter that was trained in another host is accepted.
        row: name of the compressor in tables.
        tasks: digest of the folder of local tasks.
        revision: branch, tag or commit of a host on the Hub, as given by the user.
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
    revision: str | None = None

    @property
    def text(self) -> str:
        """The settings as JSON; equal settings have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)


def settings_of(given: Mapping[str, Any]) -> EvalSettings:
    """Create settings from a mapping, such as the arguments of lmms-eval's ``--model_args``.

    Raises:
        ConfigError: a name is unknown or missing.
    """
    names = {entry.name for entry in fields(EvalSettings)}
    if unknown := sorted(given.keys() - names):
        raise ConfigError(f"there is no setting {unknown[0]!r}; known: {', '.join(sorted(names))}")
    if missing := [name for name in ("host", "compressor") if not given.get(name)]:
        raise ConfigError(f"{missing[0]} is missing: add {missing[0]}=...")
    return EvalSettings(**given)


def resolve_settings(
    settings: EvalSettings, compressor: Compressor, source: str, include_path: str | None
) -> EvalSettings:
    """Complete settings with the properties of the compressor, its adapter, the host and the local tasks.

    Args:
        settings: settings as given by the user.
        compressor: the compressor.
        source: registered name or folder of the compressor, also if it was given as a Hub id.
        include_path: folder of local tasks.

    Raises:
        HostError: there is no such host.
        AdapterFileError, ConfigError: the adapter or the folder of tasks cannot be used.
    """
    adapter, lora = digest_of(source)
    resolved = {
        "budget": compressor.budget,
        "params": json_value(compressor.params()),
        "adapter": adapter,
        "row": display_name(compressor) + (LORA_SUFFIX if lora else ""),
        "host_revision": host_revision(settings.host, settings.revision),
        "tasks": tasks_digest(include_path),
    }
    return EvalSettings(**{**asdict(settings), **resolved})


def digest_of(source: str) -> tuple[str | None, bool]:
    """Return the digest of an adapter folder and whether it has LoRA; None and False for a registered name."""
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        return None, False
    from framefold.adapters.hosts.lora.config import has_lora
    from framefold.adapters.hosts.lora.digest import adapter_digest

    return adapter_digest(folder), has_lora(folder)


def claim(out: Path, settings: EvalSettings) -> None:
    """Write the settings into a results folder, whose tasks must all have the same ones.

    Raises:
        ConfigError: the folder holds results of other settings; the message names the difference.
    """
    out.mkdir(parents=True, exist_ok=True)
    new = json.loads(settings.text)
    old = read_settings(out) if (out / FILE).is_file() else new
    if (name := difference(old, new)) is not None:
        was, now = short(old.get(name)), short(new.get(name))
        raise ConfigError(f"{out} holds results with {name} {was}, not {now}: give another --out, or delete it")
    write_json(out / FILE, new, indent=2)


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first setting in which two evaluations differ, except for the device."""
    names = [name for name in {**one, **other} if name != "device" and one.get(name) != other.get(name)]
    return names[0] if names else None


def read_settings(out: Path) -> dict[str, Any]:
    """Read the settings of a results folder.

    Raises:
        EvalError: they are missing or damaged.
    """
    try:
        settings = json.loads((out / FILE).read_text())
        if not isinstance(settings, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError as error:
        raise EvalError(f"no results in {out}: run 'framefold eval --out {out}' first") from error
    except (OSError, ValueError) as error:
        raise EvalError(f"{out / FILE} is damaged ({error}): delete it and the results next to it") from error
    return settings


def host_revision(host: str, revision: str | None = None) -> str:
    """Identify the state of a host: a digest of its folder, or its commit on the Hub.

    Raises:
        HostError: there is no such host.
    """
    from framefold.training.frozen_host.locate import find_host

    found = find_host(host, revision)
    if found.folder != Path(host):
        return found.folder.name
    return _digest(file for file in found.folder.iterdir() if file.is_file() and file.suffix in HOST_FILES)


def tasks_digest(folder: str | None) -> str:
    """Digest of a folder of local tasks; "" without one.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is None:
        return ""
    if not Path(folder).is_dir():
        raise ConfigError(f"there is no folder {folder} to include tasks from")
    return _digest(file for file in Path(folder).rglob("*") if file.is_file() and file.suffix in TASK_FILES)


def json_value(value: Any) -> Any:
    """Convert a value for JSON: NumPy numbers to numbers, non-finite ones to None, unknown types to text."""
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
    """SHA-256 of names and contents; files of gigabytes count by their size and their two ends."""
    lines = [f"{file.name} {file.stat().st_size} {bytes_digest(_ends(file))}" for file in files]
    return text_digest("\n".join(sorted(lines)))


def _ends(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as content:
        yield content.read(DIGEST_LIMIT)
        if size > DIGEST_LIMIT:
            content.seek(max(DIGEST_LIMIT, size - DIGEST_LIMIT))
            yield content.read()
