"""``framefold answer``: what it prints, and errors before work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.adapters import build
from framefold.data.synthetic.generate import generate as synthesize
from framefold.data.video.codec import encode_video
from framefold.evaluation.inspection import answer as answer_module
from tests.support.processes import ROOT, needs_torchvision, python

QUESTION = "which shape flashed first ?"
# Runs commands one after the other in one process: starting it takes longer than all of them. The first one starts
# without transformers and without torchvision, as on the command line.
CALLS = """
import contextlib, io, json, sys
from framefold.__main__ import main
results = {}
for name, words in json.load(open("calls.json")).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["answer", *words])
    results[name] = [status, out.getvalue(), err.getvalue(), "transformers" in sys.modules]
import torch
assert hasattr(torch.ops.torchvision, "nms")
json.dump(results, open("results.json", "w"))
"""


def host(desk: Path, name: str, change: Callable[[Path], object]) -> str:
    """A copy of the embedded host with something changed."""
    shutil.copytree(ROOT / "checkpoints/tinyhost", desk / name)
    change(desk / name)
    return name


def edit(file: str, **fields: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | fields))

    return change


def remove(*files: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / file).unlink() for file in files]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video, bad files and hosts; one called torchvision that is none."""
    desk = tmp_path_factory.mktemp("answer")
    video = synthesize(0, split="test", frames=64, difficulty="hard")
    (desk / "good.mp4").write_bytes(encode_video(video.frames, video.times))
    (desk / "text.mp4").write_text("a film\n" * 99)
    (desk / "torchvision").mkdir()
    text = json.loads((ROOT / "checkpoints/tinyhost/config.json").read_text())["text_config"]
    (desk / "checkpoints").symlink_to(ROOT / "checkpoints")
    host(desk, "silent", remove("chat_template.jinja"))
    host(desk, "bare", remove("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"))
    host(desk, "light", remove("model.safetensors"))
    host(desk, "cut", lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99))
    host(desk, "short", edit("config.json", text_config=text | {"max_position_embeddings": 1000}))
    host(desk, "other", edit("config.json", model_type="bert"))
    build("fila", 0.5).save_pretrained(desk / "unused")
    narrow = build("fila", 0.5)
    narrow.materialize(16, (4, 4))
    narrow.save_pretrained(desk / "narrow")
    return desk


def words(*more: str, **options: str) -> list[str]:
    """A call of the verb on good input, with some options changed."""
    good = {"host": "checkpoints/tinyhost", "video": "good.mp4", "question": QUESTION, "compressor": "st_simdiff"}
    return [word for name, value in (good | options).items() for word in (f"--{name}", value)] + list(more)


@pytest.fixture(scope="module")
def called(desk: Path) -> dict[str, tuple[int, str, str, bool]]:
    calls = {
        "help": ["--help"],
        "compare": words("--compare", "--budget", "0.1", "--max-new-tokens", "8", "--repeats", "2"),
        "small context": words("--repeats", "1", "--budget", "100", host="short"),
        "trained": words("--frames", "16", "--max-new-tokens=1", "--repeats=1", compressor="checkpoints/fila"),
        **{name: words("--repeats", "1", **bad) for name, (bad, _) in BAD.items()},
    }
    (desk / "calls.json").write_text(json.dumps(calls))
    done = python("-c", CALLS, cwd=desk)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((desk / "results.json").read_text())


BAD: dict[str, tuple[dict[str, str], str]] = {
    "missing video": ({"video": "none.mp4"}, "none.mp4"),
    "text for a video": ({"video": "text.mp4"}, "cannot decode text.mp4"),
    "no question": ({"question": " "}, "question is empty"),
    "placeholder": ({"question": "what is <video> ?"}, "'<video>'"),
    "long question": ({"question": "red " * 9000}, "context of 8192"),
    "missing host": ({"host": "nowhere"}, "no host to load in 'nowhere'"),
    "adapter for a host": ({"host": "checkpoints/fila"}, "checkpoints/fila"),
    "foreign host": ({"host": "other"}, "Supported: "),
    "no chat template": ({"host": "silent"}, "chat_template.jinja"),
    "no processor": ({"host": "bare"}, "bare"),
    "no weights": ({"host": "light"}, "weights of light"),
    "damaged weights": ({"host": "cut"}, "weights of cut"),
    "adapter of another host": ({"compressor": "./narrow"}, "16"),
}


@needs_torchvision
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_answered_is_one_line(name: str, called: dict[str, tuple[int, str, str, bool]]) -> None:
    status, out, err, _ = called[name]
    lines = [line for line in err.splitlines() if line and "Loading weights" not in line]
    assert (status, out) == (2, ""), err
    assert len(lines) == 1 and lines[0].startswith("framefold: error: ") and BAD[name][1] in lines[0], err


@needs_torchvision
def test_help_imports_no_transformers(called: dict[str, tuple[int, str, str, bool]]) -> None:
    status, out, _, transformers = called["help"]
    assert status == 0 and "--max_new_tokens" in out and not transformers


@needs_torchvision
def test_both_answers_and_a_table_are_printed(called: dict[str, tuple[int, str, str, bool]]) -> None:
    status, out, err, _ = called["compare"]
    assert status == 0, err
    rows = dict(re.findall(r"^(st_simdiff, budget 0.1|all tokens) +(\S.*)$", out, flags=re.MULTILINE)[:2])
    assert rows == {"st_simdiff, budget 0.1": "square", "all tokens": "square"}
    few, full = re.findall(r"^.* (\d+)  +(\d+) +([\d.]+) ms +([\d.]+) ms +([\d.]+) MiB$", out, flags=re.MULTILINE)
    assert (few[:2], full[:2]) == (("102", "110"), ("1024", "1032"))  # a newline token and 7 of text beside
    assert all(0 < float(value) < 1e5 for value in (*few[2:4], *full[2:4]))
    assert "all 64 frames, 32.0 s, 1024 visual tokens" in out and "median of 2" in out


@needs_torchvision
def test_a_video_that_fills_the_context_is_noted(called: dict[str, tuple[int, str, str, bool]]) -> None:
    status, out, err, _ = called["small context"]
    assert status == 0 and out.splitlines()[0], err
    note = "framefold: note: the full prompt has 1032 tokens, more than the host's context of 1000;"
    assert [line[: len(note)] for line in err.splitlines() if "note" in line] == [note]
    assert "note" not in called["compare"][2]


@needs_torchvision
def test_a_trained_adapter_answers_with_its_own_budget(called: dict[str, tuple[int, str, str, bool]]) -> None:
    status, out, err, _ = called["trained"]
    assert status == 0, err
    budget = json.loads((ROOT / "checkpoints/fila/config.json").read_text())["budget"]
    kept = budget if isinstance(budget, int) else round(budget * 16 * 16)
    assert re.search(rf"^fila, budget {budget} +{kept} +{kept + 8} .* - +[\d.]+ MiB$", out, flags=re.MULTILINE), out
    assert "16 of 64 frames" in out and "all tokens" not in out


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (["--compressor", "st_simdif"], "did you mean 'st_simdiff'"),
        (["--compressor", "./none"], "no adapter folder"),
        (["--budget", "1.5"], "(0, 1]"),
        (["--budget", "0"], "a budget in tokens must be at least 1, got 0"),
        (["--frames", "0"], "frames must be at least 1"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--repeats=-1"], "repeats must be at least 1"),
        (["--device", "tpu"], "'tpu'"),
        (["--device", "cuda:99"], "cuda"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_looked_for(
    changed: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def looked() -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(answer_module, "find_torchvision", looked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["answer", *words(), *changed]) == 2
    assert text in capsys.readouterr().err
