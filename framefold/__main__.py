"""The ``framefold`` command: a table of verbs, each imported when it is called.

``framefold --help`` reads only this file, so it is quick and needs no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from framefold.errors import FramefoldError

# verb -> (module:function, what it does). LightningCLI verbs read sys.argv themselves, because relaunched ranks do.
LIGHTNING = {
    "fit": ("training.fit.main:main", "train a compressor in front of a frozen host"),
    "validate": ("training.fit.main:main", "validation loss and accuracy of a checkpoint"),
}

FUNCTIONS = {
    "shards synth": ("data.synthetic.write_shards:synth", "write synthetic long videos as webdataset shards"),
    "shards splice": (
        "data.spliced.write_shards:splice",
        "make long videos with questions of short annotated clips, as shards",
    ),
    "shards index": ("data.shards.sources:index", "count the samples of shards, so that training can read them"),
    "shards features": (
        "training.frozen_host.write_features:features",
        "encode the videos of shards once, so that training is quick",
    ),
    "shards check": ("data.shards.check:check_shards", "open everything in shards and count the damage"),
    "view": (
        "data.drawing.view:view",
        "draw a video with its questions and evidence as a contact sheet, or write it as mp4",
    ),
    "show": ("evaluation.inspection.show:show", "draw what a compressor keeps of a video file"),
    "bench compress": (
        "evaluation.bench.compressors:bench_compress",
        "time and extra memory of compressors by themselves",
    ),
    "bench attach": ("evaluation.bench.attach:bench_attach", "what an attached compressor costs and saves in a host"),
    "bench ssm": ("evaluation.bench.mamba2:bench_ssm", "our Mamba-2 block against transformers', on the CPU"),
    "bench synth": ("evaluation.bench.synthetic:bench", "time per synthetic video on one core, wall and CPU"),
    "bench data": (
        "evaluation.bench.loading:bench_data",
        "how fast shards are read, and the memory of a loader worker",
    ),
    "tinyhost train": ("training.tinyhost.train:train", "train the embedded host from nothing"),
    "tinyhost eval": ("training.tinyhost.evaluate:evaluate_host", "accuracy of a host per question type"),
    "answer": ("evaluation.inspection.answer:answer", "ask a video-LLM about a video file, on fewer visual tokens"),
    "eval": ("evaluation.lmms.evaluate:evaluate", "accuracy on lmms-eval's benchmarks, and what the answers took"),
    "ablate": (
        "evaluation.ablation.ablate:ablate",
        "compressors x budgets on held-out videos, one results file a cell",
    ),
    "report": ("evaluation.report.report:report", "Markdown table and plots from a folder of results"),
    "export": ("cli.export:export", "turn a checkpoint into an adapter folder"),
    "checkpoint list": ("training.checkpoint.commands:listing", "name the checkpoints of a run, and which are damaged"),
    "checkpoint universal": ("training.checkpoint.commands:universal", "make one of DeepSpeed fit any number of ranks"),
    "checkpoint consolidate": ("training.checkpoint.commands:consolidate", "its trained weights as plain safetensors"),
    "doctor": ("cli.doctor.doctor:main", "what this machine has, and what each missing piece disables"),
    "launch slurm": ("cli.launch:slurm", "write a job for sbatch that survives the end of its time"),
    "launch torchrun": ("cli.launch:torchrun", "write a script that trains by torchrun on several machines"),
    "launch mpirun": ("cli.launch:mpirun", "write a script that trains by mpirun"),
    "demo": ("cli.demo:demo", "the whole job in minutes: shards, training, ablation, export, report"),
}

EXTRA_OF = {
    **dict.fromkeys(("pytorch_lightning", "deepspeed", "webdataset", "av", "jsonargparse"), "train"),
    **dict.fromkeys(("tensorboard", "torchmetrics", "rich", "filelock", "lightning_utilities", "psutil"), "train"),
    "peft": "lora",
    "mamba_ssm": "mamba",
    "causal_conv1d": "mamba",
    "matplotlib": "report",
    "wandb": "wandb",
}


def usage() -> str:
    """Text of ``framefold --help``."""
    verbs = {**LIGHTNING, **FUNCTIONS}
    width = max(map(len, verbs))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in verbs.items()]
    return "\n".join(
        [
            "usage: framefold VERB [--config NAME_OR_FILE ...] [--key value ...]",
            "",
            "Plug-in adapters that shrink the visual tokens of long video for video-LLMs.",
            "",
            "verbs:",
            *lines,
            "",
            "'framefold VERB --help' shows its options. Packaged configs go by short name (--config trainer/cpu).",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and turn its errors into one line.

    Returns:
        Exit status: 0 done, 1 failed while running, 2 wrong usage or input, 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        from framefold import __version__

        print(f"framefold {__version__}")
        return 0
    return _guarded(args)


def _guarded(args: list[str]) -> int:
    debug = bool(os.environ.get("FRAMEFOLD_DEBUG"))
    try:
        return _run(args)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else _fail(str(error.code), 2) if error.code else 0
    except KeyboardInterrupt:
        return _fail("interrupted; finished files are kept, unfinished ones were removed", 130)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None or debug:
            raise
        return _fail(f"{error.name} is not installed: pip install 'framefold[{extra}]'", 2)
    except Exception as error:
        if debug:
            raise
        return _fail(*_describe(error))


def _describe(error: Exception) -> tuple[str, int]:
    """One line for an error, and the exit status: 2 for what the user can put right in the call, 1 otherwise."""
    text = " ".join(str(error).split())
    if isinstance(error, FramefoldError):
        return text, 2
    if isinstance(error, OSError):
        return f"{error.strerror or text}{f': {error.filename}' if error.filename else ''}", 1
    return f"{type(error).__name__}: {text} (FRAMEFOLD_DEBUG=1 shows where)", 1


def _run(args: list[str]) -> int:
    verb = args[0]
    if verb in LIGHTNING:
        sys.argv[1:] = args  # and argv[0] stays: it is what relaunched ranks start
        _load(LIGHTNING[verb][0])()
        return 0
    if verb == "doctor":  # reads its own arguments: it is there to say that jsonargparse is missing
        return _load(FUNCTIONS[verb][0])(args[1:])
    for words in (2, 1):
        verb = " ".join(args[:words])
        if verb in FUNCTIONS:
            from framefold.cli.parser import call

            return call(_load(FUNCTIONS[verb][0]), verb, args[words:])
    known = ", ".join([*LIGHTNING, *FUNCTIONS])
    raise SystemExit(f"unknown verb {args[0]!r}; known: {known}")


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"framefold.{module}"), name)


def _fail(text: str, status: int) -> int:
    print(f"framefold: error: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
