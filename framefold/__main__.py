"""The ``framefold`` command: a table of verbs. The module of a verb is imported when the verb is called.

``framefold --help`` reads only this file, so it is fast and does not import torch.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from framefold.errors import FramefoldError, UnknownCompressorError
from framefold.extras import named_extra
from framefold.import_signals import end_at_once, interrupted
from framefold.warning_types import FramefoldWarning

# Verbs of LightningCLI, which read sys.argv themselves because relaunched ranks do: verb -> (module:function, help).
LIGHTNING = {
    "fit": ("training.fit.main:main", "train a compressor with a frozen host"),
    "validate": ("training.fit.main:main", "compute validation loss and accuracy of a compressor"),
}

# Verbs whose options are the parameters of a function: verb -> (module:function, help).
FUNCTIONS = {
    "shards synth": (
        "data.synthetic.write_shards:synth",
        "write synthetic long videos with questions as webdataset shards",
    ),
    "shards splice": (
        "data.spliced.write_shards:splice",
        "join short annotated clips into long videos with questions, as shards",
    ),
    "shards import": (
        "data.imported.write_shards:import_shards",
        "write your videos and annotations (LLaVA, messages, captions, CSV) as shards",
    ),
    "shards index": (
        "data.shards.sources:index_shards",
        "count the samples of shards and write the index that training needs",
    ),
    "shards features": (
        "training.frozen_host.write_features:features",
        "encode the videos of shards once, to speed up training",
    ),
    "shards check": (
        "training.frozen_host.check_samples:check_samples",
        "read every sample of shards and report damaged ones",
    ),
    "view": (
        "data.drawing.view:view",
        "draw a video with its questions and evidence as a contact sheet, or write it as mp4",
    ),
    "show": ("evaluation.inspection.show:show_command", "draw which parts of a video file compressors keep"),
    "plan": ("evaluation.plan.command:plan", "predict memory and time of a training from the configuration of a host"),
    "bench compress": (
        "evaluation.bench.compressors:bench_compress",
        "measure time and additional memory of compressors on their own",
    ),
    "bench size": (
        "evaluation.bench.sizes:bench_size",
        "count parameters and operations of trained compressors at 7B size",
    ),
    "bench attach": ("evaluation.bench.attach:bench_attach", "measure what an attached compressor costs and saves"),
    "bench serve": ("evaluation.bench.serving:bench_serve", "measure latency and throughput of servers"),
    "bench variants": (
        "evaluation.ablation.variants:bench_variants",
        "compare the evidence that exact and official variants keep with equally many tokens",
    ),
    "bench shortcuts": (
        "evaluation.bench.shortcuts:bench_shortcuts",
        "measure how well question-blind statistics of tokens rank the evidence of a task on a host",
    ),
    "bench validity": ("evaluation.bench.validity:bench_validity", "compare an order of methods with published tables"),
    "bench teacher": ("evaluation.bench.teacher:bench_teacher", "compare the layers of a host as teachers"),
    "bench ssm": ("evaluation.bench.mamba2:bench_ssm", "compare framefold's Mamba-2 block with that of transformers"),
    "bench synth": ("evaluation.bench.synthetic:bench_synth", "measure the time per synthetic video on one core"),
    "bench data": (
        "evaluation.bench.loading:bench_data",
        "measure the reading speed of shards and the memory of a loader worker",
    ),
    "tinyhost train": ("training.tinyhost.train:train", "train the embedded host from scratch"),
    "tinyhost eval": ("training.tinyhost.evaluate:evaluate_host", "measure the accuracy of a host per question type"),
    "answer": (
        "evaluation.inspection.answer:answer_command",
        "ask a video-LLM about a video file, with fewer visual tokens",
    ),
    "serve": ("cli.serve:serve", "serve a video-LLM with fewer visual tokens, through vLLM's OpenAI server"),
    "eval": ("evaluation.lmms.evaluate:evaluate", "run benchmarks of lmms-eval and measure accuracy and cost"),
    "eval table": ("evaluation.lmms.table:compare_evaluations", "compare evaluations of benchmarks in one table"),
    "ablate": (
        "evaluation.ablation.ablate:ablate_command",
        "compare compressors at several budgets on held-out videos",
    ),
    "report": ("evaluation.report.report:report", "write tables, plots and an HTML page from a results folder"),
    "export": ("cli.export:export", "turn a checkpoint into an adapter, as a folder or on the Hub"),
    "curves": ("training.fit.curves:draw_curves", "draw loss and accuracy of training runs"),
    "checkpoint list": (
        "training.checkpoint.commands:show_checkpoints",
        "list the checkpoints of a run and name damaged ones",
    ),
    "checkpoint universal": (
        "training.checkpoint.commands:universal",
        "convert a DeepSpeed checkpoint for any number of ranks",
    ),
    "checkpoint consolidate": (
        "training.checkpoint.commands:consolidate",
        "write the trained weights of a checkpoint as safetensors",
    ),
    "list": ("cli.names:print_list", "list compressors, hosts, configs or losses"),
    "help": ("cli.names:print_help", "describe a compressor, host family, configuration or loss"),
    "committed": ("evaluation.committed.command:committed", "commit results as one file, and write tables from it"),
    "catalogue": (
        "cli.catalogue:catalogue",
        "write the tables of docs/compressors.md from the registry and from committed results",
    ),
    "completion": ("cli.completion:completion", "print a script for the completion of a shell"),
    "doctor": ("cli.doctor.doctor:main", "report what this machine has and what each missing piece disables"),
    "launch slurm": ("cli.launch:slurm", "write a job for sbatch that saves, requeues and resumes the training"),
    "launch torchrun": ("cli.launch:torchrun", "write a script that trains with torchrun, on one or several machines"),
    "launch mpirun": ("cli.launch:mpirun", "write a script that trains with mpirun"),
    "demo": ("cli.demo:demo", "run everything within minutes: shards, training, export, ablation, report"),
}

# Verbs of people who develop framefold, which only ``framefold --help all`` lists.
DEVELOPERS = {
    f"bench {name}" for name in ("size", "variants", "shortcuts", "validity", "teacher", "ssm", "synth", "data")
}
DEVELOPERS |= {"tinyhost train", "tinyhost eval", "catalogue", "committed"}


def usage(everything: bool = False) -> str:
    """Return the text of ``framefold --help``, or of ``framefold --help all``."""
    verbs = {**LIGHTNING, **FUNCTIONS}
    lines = "\n".join(f"  {v:<23} {text}" for v, (_, text) in verbs.items() if everything or v not in DEVELOPERS)
    return f"""usage: framefold [--import MODULE ...] VERB [--config NAME_OR_FILE ...] [--key value ...]

Plug-in adapters that compress the visual tokens of long video for video-LLMs.

verbs:
{lines}

'framefold VERB --help' lists the options of a verb, and 'framefold --help all' also the verbs for developers.
Packaged configurations have short names (--config trainer/cpu).
'--import my_package.my_module' before the verb makes the compressors and families of that module known."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; print its errors as one line.

    Returns:
        Exit status: 0 if it succeeded, 1 if it failed, 2 for wrong usage or input, 130 if it was interrupted.
    """
    args, modules = _split_imports(list(sys.argv[1:] if argv is None else argv))
    if not args or args[0] in ("-h", "--help"):
        print(usage(args[1:] == ["all"]))
        return 0
    if args[0] == "--version":
        from framefold.version import __version__

        print(f"framefold {__version__}")
        return 0
    with suppress(AttributeError, ValueError):  # a file shall show the lines as they are printed
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        return _guarded(args, modules)


def _split_imports(args: list[str]) -> tuple[list[str], list[str]]:
    """Split ``--import MODULE`` before the verb from the other arguments."""
    modules = []
    while args and args[0].partition("=")[0] == "--import":
        option, equals, value = args.pop(0).partition("=")
        modules.append(value if equals else args.pop(0) if args else "")
    return args, modules


def _import_plugins(modules: list[str]) -> None:
    """Import modules that register compressors or families, here and in processes that this one starts.

    Raises:
        UnknownCompressorError: a module cannot be imported.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # a module of another package may raise anything
            raise UnknownCompressorError(f"--import {module}: {type(error).__name__}: {error}") from error
    inherited = os.environ.get("FRAMEFOLD_IMPORT", "").split(",")
    os.environ["FRAMEFOLD_IMPORT"] = ",".join(filter(None, dict.fromkeys([*inherited, *modules])))


def _show_warning(default: Any, text: Any, category: type[Warning], *where: Any) -> None:
    """Print warnings of framefold as one line, and others in the default way."""
    if issubclass(category, FramefoldWarning):
        print(f"framefold: warning: {' '.join(str(text).split())}", file=sys.stderr, flush=True)
    else:
        default(text, category, *where)


def _guarded(args: list[str], modules: list[str]) -> int:
    debug = bool(os.environ.get("FRAMEFOLD_DEBUG"))
    try:
        with named_extra():
            if modules:
                _import_plugins(modules)
            return _run(args)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else _fail(str(error.code), 2) if error.code else 0
    except KeyboardInterrupt:
        print(interrupted(args), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as in 'framefold list configs | head'
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError:  # of a package that no extra installs
        raise
    except Exception as error:
        if debug:
            raise
        return _fail(*_describe(error))


def _describe(error: Exception) -> tuple[str, int]:
    """Return one line for an error and the exit status: 2 if the user can correct the call, otherwise 1."""
    text = " ".join(str(error).split())
    if isinstance(error, FramefoldError):
        return text.replace("allow_other_host=True", "--allow_other_host"), 2  # an argument in Python is an option here
    if isinstance(error, OSError):
        return f"{error.strerror or text}{f': {error.filename}' if error.filename else ''}", 1
    return f"{type(error).__name__}: {text} (FRAMEFOLD_DEBUG=1 shows the traceback)", 1


def _run(args: list[str]) -> int:
    verb = args[0]
    if verb in LIGHTNING:
        if _asks_for_help(args[1:]):
            return _print_help(verb, *LIGHTNING[verb])
        args = [word for word in args if word != "all"] if args[1:] == ["--help", "all"] else args
        sys.argv[1:] = args  # argv[0] stays, because relaunched ranks run it
        with end_at_once(args):
            run = _load(LIGHTNING[verb][0])
        run()
        return 0
    if verb == "doctor":  # it parses its arguments itself, since it must run even without jsonargparse
        return _load(FUNCTIONS[verb][0])(args[1:])
    for words in (2, 1):
        verb = " ".join(args[:words])
        if verb in FUNCTIONS:
            if _asks_for_help(args[words:]):
                return _print_help(verb, *FUNCTIONS[verb])
            from framefold.cli.collection import paused_collection

            with paused_collection(verb):
                with end_at_once(args):
                    from framefold.cli.parser import call

                    function = _load(FUNCTIONS[verb][0])
                return call(function, verb, args[words:])
    from framefold.messages import nearest

    typed = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), args[:2])) or verb
    raise SystemExit(f"unknown verb {typed!r}{nearest(typed, [*LIGHTNING, *FUNCTIONS])}")


def _asks_for_help(words: list[str]) -> bool:
    return any(word in ("-h", "--help") for word in words) and words != ["--help", "all"]


def _print_help(verb: str, target: str, summary: str) -> int:
    from framefold.cli.verb_help import verb_help

    print(verb_help(verb, target, summary), end="")
    return 0


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"framefold.{module}"), name)


def _fail(text: str, status: int) -> int:
    print(f"framefold: error: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
