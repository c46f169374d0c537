"""``framefold answer`` and ``framefold show`` on real hosts and processors, in one process of their own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from framefold.adapters import build
from framefold.data.synthetic.generate import generate as synthesize
from framefold.data.video.codec import encode_video
from tests.support.processes import ROOT, needs_torchvision, python

pytestmark = needs_torchvision

QUESTION = "which shape flashed first ?"
ANIMAL = "Gibt es Tiere ?"  # the embedded host knows none of these words
# Runs all commands in one process, since starting it takes longer than the commands. The first command runs before
# transformers and torchvision are imported, as on the command line.
CALLS = """
import contextlib, io, json, sys
from framefold.__main__ import main
results = {}
for name, words in json.load(open("calls.json")).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    results[name] = [status, out.getvalue(), err.getvalue(), "transformers" in sys.modules]
import torch
assert hasattr(torch.ops.torchvision, "nms")
json.dump(results, open("results.json", "w"))
"""
Called = dict[str, tuple[int, str, str, bool]]  # status, stdout, stderr, whether transformers was imported


def copy_host(folder: Path, name: str, change: Callable[[Path], object]) -> str:
    """A copy of the embedded host with something changed."""
    shutil.copytree(ROOT / "checkpoints/tinyhost", folder / name)
    change(folder / name)
    return name


def edit(file: str, **fields: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | fields))

    return change


def remove(*files: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / file).unlink() for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos, damaged files and hosts, and an unrelated folder called torchvision."""
    folder = tmp_path_factory.mktemp("answer")
    for name, number, frames, difficulty in (("good", 0, 64, "hard"), ("clip", 3, 16, "easy")):
        video = synthesize(number, split="test", frames=frames, difficulty=difficulty)
        (folder / f"{name}.mp4").write_bytes(encode_video(video.frames, video.times))
    (folder / "text.mp4").write_text("a film\n" * 99)
    (folder / "torchvision").mkdir()
    text = json.loads((ROOT / "checkpoints/tinyhost/config.json").read_text())["text_config"]
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    copy_host(folder, "silent", remove("chat_template.jinja"))
    processor = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
    copy_host(folder, "bare", remove(*processor))
    copy_host(folder, "light", remove("model.safetensors"))
    copy_host(folder, "cut", lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99))
    copy_host(folder, "short", edit("config.json", text_config=text | {"max_position_embeddings": 1000}))
    copy_host(folder, "other", edit("config.json", model_type="bert"))
    narrow = build("fila", 0.5)
    narrow.materialize(16, (4, 4))
    narrow.save_pretrained(folder / "narrow")
    return folder


def words(verb: str, *more: str, **options: str) -> list[str]:
    """A valid call of a verb, with some options changed."""
    good = {"host": "checkpoints/tinyhost", "video": "good.mp4", "question": QUESTION, "compressor": "st_simdiff"}
    return [verb, *(word for name, value in (good | options).items() for word in (f"--{name}", value)), *more]


def answer(*more: str, **options: str) -> list[str]:
    return words("answer", *more, **options)


def show(out: str, **options: str) -> list[str]:
    return words("show", video="clip.mp4", frames="8", out=out, **options)


BAD: dict[str, tuple[dict[str, str], str]] = {
    "missing video": ({"video": "none.mp4"}, "none.mp4"),
    "text instead of a video": ({"video": "text.mp4"}, "cannot decode text.mp4"),
    "empty question": ({"question": " "}, "question is empty"),
    "placeholder": ({"question": "what is <video> ?"}, "'<video>'"),
    "long question": ({"question": "red " * 9000}, "context of 8192"),
    "missing host": ({"host": "nowhere"}, "no host in nowhere"),
    "adapter instead of a host": (
        {"host": "checkpoints/fila"},
        "fila is an adapter of framefold",
    ),
    "unsupported host": ({"host": "other"}, "Supported: "),
    "no chat template": ({"host": "silent"}, "chat_template.jinja"),
    "no processor": ({"host": "bare"}, "bare"),
    "no weights": ({"host": "light"}, "weights of light"),
    "damaged weights": ({"host": "cut"}, "weights of cut"),
    "adapter of another host": ({"compressor": "./narrow"}, "16"),
}


@pytest.fixture(scope="module")
def called(folder: Path) -> Called:
    calls = {
        "help": ["answer", "--help"],
        "compare": answer("--compare", "--budget", "0.1", "--max-new-tokens", "8", "--repeats", "2"),
        "small context": answer("--repeats", "1", "--budget", "100", host="short"),
        "trained": answer("--frames", "16", "--max-new-tokens=1", "--repeats=1", compressor="checkpoints/fila"),
        **{name: answer("--repeats", "1", **bad) for name, (bad, _) in BAD.items()},
        "untrained": answer("--frames", "16", "--repeats=1", compressor="qtsplus", question=ANIMAL, budget="10"),
        "show untrained": show("qtsplus.png", compressor="qtsplus", budget="10", question=ANIMAL),
        "show dropped": show("st_simdiff.png", budget="0.1"),
        "show merged": show("pool.png", compressor="pool", budget="12"),
    }
    (folder / "calls.json").write_text(json.dumps(calls))
    done = python("-c", CALLS, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


def test_unusable_input_is_an_error_of_one_line(called: Called) -> None:
    for name, (_, text) in BAD.items():
        status, out, err, _ = called[name]
        lines = [line for line in err.splitlines() if line and "Loading weights" not in line]
        assert (status, out) == (2, ""), (name, err)
        assert len(lines) == 1 and lines[0].startswith("framefold: error: ") and text in lines[0], (name, err)


def test_help_imports_no_transformers(called: Called) -> None:
    status, out, _, transformers = called["help"]
    assert status == 0 and "--max_new_tokens" in out and not transformers


def test_answers_of_both_variants_and_a_table_are_printed(called: Called) -> None:
    status, out, err, _ = called["compare"]
    assert status == 0, err
    rows = dict(re.findall(r"^(st_simdiff, budget 0.1|all tokens) +(\S.*)$", out, flags=re.MULTILINE)[:2])
    assert rows == {"st_simdiff, budget 0.1": "square", "all tokens": "square"}
    few, full = re.findall(r"^.* (\d+)  +(\d+) +([\d.]+) ms +([\d.]+) ms +([\d.]+) MiB$", out, flags=re.MULTILINE)
    assert (few[:2], full[:2]) == (("102", "110"), ("1024", "1032"))  # plus a newline token and 7 tokens of text
    assert all(0 < float(value) < 1e5 for value in (*few[2:4], *full[2:4]))
    assert "all 64 frames, 32.0 s, 1024 visual tokens" in out and "median of 2" in out


def test_video_that_exceeds_the_context_is_noted(called: Called) -> None:
    status, out, err, _ = called["small context"]
    assert status == 0 and out.splitlines()[0], err
    note = "framefold: note: the full prompt has 1032 tokens, more than the host's context of 1000;"
    assert [line[: len(note)] for line in err.splitlines() if "note" in line] == [note]
    assert "note" not in called["compare"][2]


def test_trained_adapter_answers_with_its_own_budget(called: Called) -> None:
    status, out, err, _ = called["trained"]
    assert status == 0, err
    budget = json.loads((ROOT / "checkpoints/fila/config.json").read_text())["budget"]
    kept = budget if isinstance(budget, int) else round(budget * 16 * 16)
    assert re.search(rf"^fila, budget {budget} +{kept} +{kept + 8} .* - +[\d.]+ MiB$", out, flags=re.MULTILINE), out
    assert "16 of 64 frames" in out and "all tokens" not in out


def test_an_untrained_compressor_is_announced_and_named_so(called: Called) -> None:
    status, out, err, _ = called["untrained"]
    assert status == 0 and re.search(r"^qtsplus \(untrained\), budget 10 +10 ", out, flags=re.MULTILINE), (out, err)
    for name in ("untrained", "show untrained"):
        lines = [line for line in called[name][2].splitlines() if "UNTRAINED" in line]
        assert len(lines) == 1 and lines[0].startswith("framefold: warning: qtsplus is UNTRAINED"), called[name]
    assert not any("UNTRAINED" in err for name, (_, _, err, _) in called.items() if "untrained" not in name)


def test_questions_outside_the_vocabulary_get_a_sentence_first_and_their_query_is_used(called: Called) -> None:
    for name in ("untrained", "show untrained"):  # a query-aware compressor gets the question, though all is unknown
        status, _, err, _ = called[name]
        (line,) = (line for line in err.splitlines() if "vocabulary" in line or "knows only" in line)
        assert status == 0 and line.startswith("framefold: warning: checkpoints/tinyhost knows only framefold's")
        assert "59 words" in line and "'Gibt', 'es', 'Tiere'" in line and "checkpoints/tinyhost/README.md" in line
    assert "knows only" not in called["compare"][2]


def test_show_draws_kept_tokens_through_the_processor_of_the_host(called: Called, folder: Path) -> None:
    for name, text in (
        ("show dropped", "wrote st_simdiff.png: st_simdiff: 13 of 128 tokens of 8 steps"),
        ("show merged", "wrote pool.png: pool: 12 of 128 tokens of 8 steps"),
    ):
        status, out, err, _ = called[name]
        assert status == 0 and text in out, err
    assert matplotlib.image.imread(folder / "pool.png").shape[2] >= 3
