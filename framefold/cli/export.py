"""Turn a checkpoint of ``framefold fit`` into an adapter: a folder, a repository on the Hub, or both."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framefold.adapters.core.budget import Budget
from framefold.adapters.hosts.lora.digest import adapter_digest
from framefold.adapters.pretrained.card import LICENSE, Measured, check_license, is_ours, write_card
from framefold.adapters.pretrained.hub import CARD, check_target
from framefold.adapters.pretrained.hub import push as push_folder
from framefold.errors import ConfigError
from framefold.evaluation.results.card_rows import measured
from framefold.training.export.from_checkpoint import adapter_from
from framefold.training.export.write import Adapter, copy_adapter


def export(
    checkpoint: str,
    out: str | None = None,
    push: str | None = None,
    private: bool = False,
    tag: str | None = None,
    results: str | None = None,
    license: str = LICENSE,
    base_model: str | None = None,
    budget: Budget | None = None,
    params: dict[str, Any] | None = None,
) -> Path | None:
    """Turn a checkpoint of ``framefold fit`` into an adapter: a folder, a repository on the Hub, or both.

    It holds config.json, model.safetensors, README.md (a model card; one that was written by hand is left alone) and,
    where LoRA was trained, ``lora/``, a stock PEFT folder. ``framefold.load`` and ``framefold.load_peft`` take it.

    Args:
        checkpoint: a checkpoint, or a run folder, whose last one is then taken; an adapter, as a folder or by its name
            on the Hub; or the name of a compressor that has no weights, such as st_simdiff.
        out: folder to write.
        push: user/name on the Hub, which gets one commit.
        private: with push: nobody else may see it.
        tag: with push: of the commit, such as v1.
        results: --out folder of an ablation with exactly these weights, for the card.
        license: of the adapter, as the Hub names it.
        base_model: name of the host on the Hub, user/name@revision, where it was trained in a copy of that.
        budget: that the adapter starts with; by default that of the training.
        params: of a compressor without weights.

    Returns:
        The folder, if one was written.

    Raises:
        AdapterFileError: no checkpoint there, or it was not written by ``framefold fit``.
        ConfigError: nothing to write to, or a setting that does not fit.
        ResultsError: no results of these weights.
        HubError: no permission, no connection, or a tag that exists; the folder is written even so.
        MissingExtraError: there is LoRA, and PEFT is not installed.
    """
    if out is None and push is None:
        raise ConfigError("give export a folder (--out DIR), a repository (--push user/name), or both")
    if push is None and (private or tag is not None):
        raise ConfigError("private and tag are for --push user/name")
    if push is not None:
        check_target(push, tag)
    check_license(license)
    made = adapter_from(checkpoint, base_model, budget, params)
    return publish(made, out, push, private=private, tag=tag, results=results, license=license)


def publish(
    made: Adapter,
    out: str | None,
    push: str | None,
    *,
    private: bool,
    tag: str | None,
    results: str | None,
    license: str,
) -> Path | None:
    """Write an adapter beside, complete it with its card, then put it in its places.

    Args: as of :func:`framefold.cli.export.export`.

    Raises:
        ResultsError, HubError: see there. OSError: the folder cannot be written; files that were there stay whole.
    """
    with tempfile.TemporaryDirectory() as beside:
        stage = Path(beside)
        made.save(stage)
        weights = adapter_digest(stage) or None
        rows: Sequence[Measured] = ()
        if results:
            rows = measured(results, made.compressor, weights, made.lora is not None)
        if out is not None and not is_ours(Path(out) / CARD):
            shutil.copyfile(Path(out) / CARD, stage / CARD)
            print(f"the card {Path(out) / CARD} was not written by framefold, so it stays as it is")
        write_card(stage, push or str(out), tag=tag, license=license, results=rows)
        what = f"{made.compressor.name}{' and LoRA' if made.lora else ''} from {made.source}"
        if out is not None:
            copy_adapter(stage, Path(out))
            print(f"exported {what} to {out}")
        if push is not None:
            url = push_folder(stage, push, private=private, tag=tag, message=f"Upload {made.compressor.name}")
            print(f"pushed {what} to {push}{f' as {tag}' if tag else ''}: {url}")
    return None if out is None else Path(out)
