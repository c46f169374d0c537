"""``framefold export``: turn a checkpoint into an adapter, as a folder, as a repository on the Hub, or both."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framefold.adapters.core.budget import Budget
from framefold.adapters.hosts.lora.digest import adapter_digest
from framefold.adapters.pretrained.card import CardResult, check_license, is_generated, write_card
from framefold.adapters.pretrained.hub import CARD, check_push_target, push_folder
from framefold.errors import ConfigError
from framefold.evaluation.results.card_results import card_results
from framefold.training.export.choose import Which
from framefold.training.export.from_checkpoint import load_for_export
from framefold.training.export.write import Adapter, copy_adapter
from framefold.training.frozen_host.locate import find_host

from .merge import merge_into_host


def export(
    checkpoint: str | None = None,
    out: str | None = None,
    push: str | None = None,
    private: bool = False,
    tag: str | None = None,
    results: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    budget: Budget | None = None,
    params: dict[str, Any] | None = None,
    which: Which | None = None,
    merge: bool = False,
    adapter: str | None = None,
    host: str | None = None,
) -> Path | None:
    """Turn a checkpoint of ``framefold fit`` into an adapter: a folder, a repository on the Hub, or both.

    The adapter consists of config.json, model.safetensors, README.md (the model card; a handwritten one is not changed)
    and, if LoRA was trained, ``lora/``, a standard PEFT folder. ``framefold.load`` and ``framefold.load_peft`` load it.
    With ``merge``, its host is written into the same folder.

    Args:
        checkpoint: a checkpoint, or the folder of a run; an adapter, as a folder or by its name on the Hub; or the name
            of a compressor without weights, such as st_simdiff.
        out: folder to write.
        push: user/name of the repository on the Hub, which gets one commit.
        private: with push: create a private repository.
        tag: with push: tag of the commit, such as v1.
        results: --out folder of an ablation of exactly these weights, for the model card.
        license: license of the adapter, as the Hub names it, such as apache-2.0; by default the card names none.
        base_model: name of the host on the Hub, user/name@revision, if the adapter was trained with a local copy of it.
        budget: default budget of the adapter; by default that of the training.
        params: parameters of a compressor without weights.
        which: for the folder of a run: its best checkpoint by validation, or its last one. By default the best one if
            the run was validated on data that you chose (data.val_share or data.val_shards), otherwise the last one.
        merge: write one folder with the host, its processor and the adapter, which 'framefold serve' takes; LoRA is
            added to the weights of the language model.
        adapter: with merge: what checkpoint is without it.
        host: with merge: folder of the host, or user/name or user/name@revision of a downloaded one on the Hub.

    Returns:
        The folder, if one was written.

    Raises:
        AdapterFileError: there is no checkpoint, or ``framefold fit`` did not write it.
        ConfigError: neither a folder nor a repository is given, or a setting is invalid.
        ResultsError: there are no results of these weights.
        HubError: no permission, no connection, or the tag exists. The folder is written nevertheless.
        ServingError: with merge: the host or the compressor cannot be served.
        WrongHostError: with merge: the adapter was trained in another host.
        MissingExtraError: the adapter has LoRA, and PEFT is not installed.
    """
    if merge:
        if out is None or host is None or adapter is None:
            raise ConfigError("export --merge needs --host, --adapter and --out")
        if checkpoint is not None:
            raise ConfigError(f"export --merge takes its adapter as --adapter {checkpoint}")
        if push is not None or private or tag is not None or results is not None or license is not None:
            raise ConfigError(
                "export --merge writes only a folder: drop --push, --private, --tag, --results and --license"
            )
        loaded = load_for_export(adapter, base_model, budget, params, which)
        folder = merge_into_host(loaded, find_host(host), Path(out))
        print(f"merged {loaded.compressor.name} from {loaded.source} into a copy of {host} in {out}")
        return folder
    if host is not None or adapter is not None:
        raise ConfigError("--host and --adapter need --merge: an adapter is exported without its host")
    if checkpoint is None:
        raise ConfigError("export needs a checkpoint: framefold export RUN_OR_CHECKPOINT --out DIR")
    if out is None and push is None:
        raise ConfigError("export needs a folder (--out DIR), a repository (--push user/name), or both")
    if push is None and (private or tag is not None):
        raise ConfigError("--private and --tag need --push user/name")
    if push is not None:
        check_push_target(push, tag)
    check_license(license)
    loaded = load_for_export(checkpoint, base_model, budget, params, which)
    return publish(loaded, out, push, private=private, tag=tag, results=results, license=license)


def publish(
    adapter: Adapter,
    out: str | None,
    push: str | None,
    *,
    private: bool,
    tag: str | None,
    results: str | None,
    license: str | None,
) -> Path | None:
    """Write an adapter with its model card to a temporary folder, then copy it to a folder, push it, or both.

    Args:
        adapter: compressor, LoRA and config. All other arguments are those of :func:`export`.

    Raises:
        ResultsError: there are no results of these weights.
        HubError: no permission, no connection, or the tag exists.
        OSError: the folder cannot be written; its previous files are intact.
    """
    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        adapter.save(stage)
        weights = adapter_digest(stage) or None
        rows: Sequence[CardResult] = ()
        if results:
            rows = card_results(results, adapter.compressor, weights, adapter.lora is not None)
        if out is not None and not is_generated(Path(out) / CARD):
            shutil.copyfile(Path(out) / CARD, stage / CARD)
            print(f"the card {Path(out) / CARD} was not written by framefold and is not changed")
        write_card(stage, push or str(out), tag=tag, license=license, results=rows)
        what = f"{adapter.compressor.name}{' and LoRA' if adapter.lora else ''} from {adapter.source}"
        if out is not None:
            copy_adapter(stage, Path(out))
            print(f"exported {what} to {out}")
        if push is not None:
            url = push_folder(stage, push, private=private, tag=tag, message=f"Upload {adapter.compressor.name}")
            print(f"pushed {what} to {push}{f' as {tag}' if tag else ''}: {url}")
    return None if out is None else Path(out)
