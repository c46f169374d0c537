"""The model card of an adapter folder, written out of its config and of measured results: nothing is typed in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefold.adapters.core.registry import get
from framefold.errors import ConfigError
from framefold.files import replace_file
from framefold.messages import short

from .config import CONFIG, read_config
from .hub import CARD, HUB_ID
from .weights import WEIGHTS, shapes_of

LICENSE = "apache-2.0"

WRITTEN = "<!-- written by framefold: without this line the file is yours, and is left alone -->"

TASK = "video-text-to-text"

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,49}")


@dataclass(frozen=True)
class Measured:
    """Accuracy of one row of an ablation at one budget, in percent.

    Attributes:
        row: name in the table. own: whether it is the adapter of the card.
        budget: ratio or tokens a video; None: all tokens, at every budget.
        tokens: that were kept of a video. value, low, high: accuracy with its 95 % interval.
        questions: that were asked. dataset: what was asked about, as fields of huggingface_hub's EvalResult.
    """

    row: str
    own: bool
    budget: float | int | None
    tokens: float
    value: float
    low: float
    high: float
    questions: int
    dataset: dict[str, Any]


def check_license(text: str) -> None:
    """Refuse what cannot be a name of a licence on the Hub, such as apache-2.0.

    Raises:
        ConfigError: it cannot.
    """
    if not _LICENSE.fullmatch(text):
        raise ConfigError(f"{short(text)} is no license as the Hub names them (apache-2.0, mit, cc-by-4.0, other ...)")


def write_card(
    folder: Path, source: str, *, tag: str | None = None, license: str = LICENSE, results: Sequence[Measured] = ()
) -> bool:
    """Write the card of an adapter folder, unless somebody has written one by hand.

    Args: as of :func:`card_text`, which the folder gives the rest of.

    Returns:
        Whether it was written.

    Raises:
        AdapterFileError: no adapter folder. OSError: it cannot be written.
    """
    if not is_ours(folder / CARD):
        return False
    shapes = shapes_of(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}
    parameters = sum(math.prod(shape) for shape in shapes.values())
    text = card_text(read_config(folder), parameters, source, tag=tag, license=license, results=results)
    replace_file(folder / CARD, lambda beside: beside.write_text(text))
    return True


def card_text(
    config: dict[str, Any],
    parameters: int,
    source: str,
    *,
    tag: str | None = None,
    license: str = LICENSE,
    results: Sequence[Measured] = (),
) -> str:
    """The card of an adapter.

    Args:
        config: its ``config.json``. parameters: numbers in its weights, LoRA left out.
        source: what to load it by: a Hub id, or a folder. tag: on the Hub.
        license: as the Hub names it. results: measured rows, those of other compressors included.
    """
    parts = [
        f"---\n{_metadata(config, source, license, results)}\n---\n\n# {Path(source).name}",
        _what(config),
        _use(config, source, tag),
        _made(config, parameters),
        _numbers(results),
        _limits(config, results),
        WRITTEN,
    ]
    return "\n\n".join(parts) + "\n"


def is_ours(card: Path) -> bool:
    """Whether a card was written here, or there is none, so that it may be written anew."""
    return not card.exists() or WRITTEN in card.read_text(errors="replace")


def _metadata(config: dict[str, Any], source: str, license: str, results: Sequence[Measured]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    name, own = config["compressor"], [one for one in results if one.own]
    host = config.get("base_model_name_or_path") or ""
    base: dict[str, Any] = {"base_model": host, "base_model_relation": "adapter"} if HUB_ID.fullmatch(host) else {}
    evaluated = [
        EvalResult(
            task_type=TASK,
            task_name="questions about videos",
            metric_type="accuracy",
            metric_name=f"accuracy at {at(one.budget)}",
            metric_value=round(one.value, 2),
            metric_args={
                "budget": one.budget,
                "tokens": round(one.tokens, 2),
                "interval_95": [round(one.low, 2), round(one.high, 2)],
                "questions": one.questions,
            },
            **one.dataset,
        )
        for one in own
    ]
    data = ModelCardData(
        library_name="framefold",
        license=license,
        pipeline_tag=TASK,
        tags=["framefold", f"compressor:{name}", "token-compression", *(["lora"] if config.get("lora") else [])],
        model_name=Path(source).name if own else None,
        eval_results=evaluated or None,
        **base,
    )
    return str(data.to_yaml(line_break="\n")).strip()


def _what(config: dict[str, Any]) -> str:
    base, revision = config.get("base_model_name_or_path"), config.get("base_model_revision")
    behind = f"`{_plain(base)}`" if base else "a video-LLM"
    if base and revision:
        behind = f"[{base}](https://huggingface.co/{base}/tree/{_plain(revision)})"
    lora = ", with LoRA of the language model that was trained behind it" if config.get("lora") else ""
    return (
        f"`{config['compressor']}`, a plug-in of framefold that shrinks the visual tokens of long video between vision "
        f"encoder and language model of {behind} to an exact budget{lora}. The host itself stays as it is."
    )


def _use(config: dict[str, Any], source: str, tag: str | None) -> str:
    quoted = json.dumps(source, ensure_ascii=False)
    place = quoted if tag is None else f'{quoted}, revision="{tag}"'
    lines = [f"compressor = framefold.load({place})", "framefold.attach(model, compressor)  # model: the host"]
    if config.get("lora"):
        lines = [f"model = framefold.load_peft(model, {place})  # model: the host, which gets compressor and LoRA"]
    budget = f"The budget is {at(config['budget'])}; `budget=` takes another share (0.1) or number of tokens (100)."
    return "\n".join(["## Use", "", "```python", *lines, "```", "", budget])


def _made(config: dict[str, Any], parameters: int) -> str:
    training, sampling = config.get("training") or {}, config.get("frame_sampling") or {}
    rows: dict[str, Any] = {"compressor": config["compressor"], **config["params"]}
    rows |= {"trained parameters": f"{parameters:,}"} if parameters else {}
    rows |= {f"training: {key}": value for key, value in training.items() if value is not None}
    rows |= {f"frames: {key}": value for key, value in sampling.items() if value is not None}
    known = {"host": "host", "width": "width of its tokens", "host_weights": "SHA-256 of its weights"}
    rows |= {text: config[key] for key, text in known.items() if config.get(key) is not None}
    rows |= {"commit of the host": config["base_model_revision"]} if config.get("base_model_revision") else {}
    rows |= {"framefold": config["framefold_version"]} if config.get("framefold_version") else {}
    head = "## What was trained, and on what" if training else "## What it is"
    nothing = [] if parameters or training else ["", "Nothing was trained: the method has no parameters."]
    table = [f"| {_plain(key)} | {_plain(value)} |" for key, value in rows.items()]
    return "\n".join([head, *nothing, "", f"Out of `{CONFIG}`:", "", "| | |", "|---|---|", *table])


def _numbers(results: Sequence[Measured]) -> str:
    if not results:
        return "## Measured\n\nNothing: no results were given when this was written."
    budgets: list[Any] = list(dict.fromkeys(one.budget for one in results if one.budget is not None))
    kept = {one.budget: one.tokens for one in results}
    heads = [f"{at(budget)} ({kept[budget]:.0f} tokens)" for budget in budgets] or ["all tokens"]
    lines = [f"| accuracy, % | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in dict.fromkeys(one.row for one in results):
        cells = {one.budget: _interval(one) for one in results if one.row == row}
        everywhere = cells.get(None, "")
        lines.append(f"| {row} | {' | '.join(cells.get(budget, everywhere) for budget in budgets or [None])} |")
    first = next(one for one in results if one.own)
    text = (
        f"{first.dataset['dataset_name']}, {first.questions} questions; 95 % bootstrap intervals. These weights, and "
        "no others, are the row of the adapter. Out of the files of `framefold ablate`."
    )
    return "\n".join(["## Measured", "", text, "", *lines])


def _limits(config: dict[str, Any], results: Sequence[Measured]) -> str:
    source = ((config.get("training") or {}).get("data") or {}).get("source")
    lines = [
        "It fits hosts of the kind it was made for; `attach` refuses another (`allow_other_host=True` overrules that)."
    ]
    if source == "synthetic":
        lines.append("It has seen nothing but synthetic videos.")
    if get(config["compressor"]).query_aware:
        lines.append("It reads the question: another question about the same video is another compression.")
    if not results:
        lines.append("Nobody has measured how much of the host's accuracy it keeps; `framefold ablate` does.")
    elif all(one.dataset["dataset_type"] == "framefold/synthetic" for one in results):
        lines.append("It was measured on synthetic videos alone, which says little about real ones.")
    lines.append("What a compressor drops, the host never sees: it will answer all the same.")
    return "\n".join(["## Limits", "", *(f"- {line}" for line in lines)])


def _interval(one: Measured) -> str:
    return f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]"


def at(budget: Any) -> str:
    """How a budget reads."""
    if budget is None:
        return "all tokens"
    return f"{100 * budget:.10g} %" if isinstance(budget, float) else f"{budget} tokens" if budget != "auto" else "auto"


def _plain(value: Any) -> str:
    """A value of a config for a cell of a table: no markup of somebody else's, and no line of its own."""
    text = value if isinstance(value, str) else short(value, 300)
    return " ".join(re.sub(r"[|`<>\[\]\\]", " " if isinstance(value, str) else r"\\\g<0>", text).split())[:400]
