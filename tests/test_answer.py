"""``framefold answer``: real files through real processors, honest numbers, and errors before work.

What needs torchvision runs in processes of its own, which have not imported transformers without it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from framefold.__main__ import main
from framefold.adapters import build
from framefold.adapters.errors import MissingExtraError
from framefold.data.synthetic import generate as synthesize
from framefold.data.video import encode
from framefold.training import answer as answer_module
from framefold.training import answer_runs, find_torchvision, measure
from framefold.training.answer_runs import Task, run
from framefold.training.hostio import load_host

from .tiny_families import HOSTS

ROOT = Path(__file__).resolve().parent.parent
BESIDE = Path(sys.prefix) / "torchvision"
QUESTION = "which shape flashed first ?"
needs_torchvision = pytest.mark.skipif(
    not BESIDE.is_dir() and find_spec("torchvision") is None, reason="there is no torchvision (make setup)"
)


def python(*words: str, cwd: Path = ROOT, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python as a user does, without a network; raises nothing."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


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
assert all(hasattr(torch.ops.torchvision, name) for name in ("nms", "qnms"))
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
    (desk / "good.mp4").write_bytes(encode(video.frames, video.times))
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
    assert "64 of 64 frames" in out and "median of 2" in out


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


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("families")
    done = python("-m", "tests.answer_families", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cap_pixels_per_frame" not in done.stderr  # decided, so no processor has to warn
    return json.loads((folder / "results.json").read_text())


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_every_family_answers_through_its_own_processor(name: str, families: dict[str, dict[str, Any]]) -> None:
    result, tiny = families[name], HOSTS[name]
    whole, few = result["whole"], result["few"]
    steps, h, w = result["grid"]
    assert (h, w) == tiny.grid and whole["visual"] == few["visual"] == steps * h * w
    for field in ("text", "visual", "prompt"):  # the identity compressor leaves the host as it is
        assert whole["compressed"][field] == whole["full"][field]
    assert [whole["full"]["prompt"], few["compressed"]["prompt"]] == result["columns"]
    assert few["compressed"]["visual"] == result["kept"] == 5 and few["full"] is None
    assert "whatisit?" in result["prompt"] and result["prompt"].lower().endswith("assistant:")
    assert result["lone"] in (None, [h * w, 3])
    assert result["asked"]  # the probe got the words of the question and nothing of the template


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_compressors_get_the_time_of_every_step_of_the_grid(name: str, families: dict[str, dict[str, Any]]) -> None:
    result = families[name]
    times, steps = np.array(result["sampled"]), result["grid"][0]
    assert times.tolist() == [0.5, 1, 2.5, 4, 4.25, 6]  # of a variable frame rate
    assert result["times"] == pytest.approx(times.reshape(steps, -1).mean(1).tolist())


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("qwen3_vl", r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
        ("qwen3_vl_moe", r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
        ("video_llama_3", r"Time([\d.]+)s:", ["0.5", "1.0", "2.5", "4.0", "4.2", "6.0"]),
        ("glm4v", r"<\|end_of_image\|>(\d+)", ["0", "2", "4"]),  # of the first frame of each step
        ("smolvlm", r"Framefrom(\d+:\d+):", ["00:00", "00:01", "00:02", "00:04", "00:04", "00:06"]),
    ],
)
def test_processors_that_write_times_write_true_ones(
    name: str, pattern: str, expected: list[str], families: dict[str, dict[str, Any]]
) -> None:
    assert re.findall(pattern, families[name]["prompt"]) == expected


ABSENT = """
import sys
prefix, sys.prefix = sys.prefix, "/nowhere"
from framefold.__main__ import main
words = sys.argv[1:]
print(main(words), "transformers" in sys.modules)
import transformers
sys.prefix = prefix
print(main(words))
"""


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_without_torchvision_the_command_that_installs_it_is_named() -> None:
    done = python("-c", ABSENT, "answer", *words())
    before, *after = done.stderr.splitlines()
    assert done.stdout.splitlines()[0] == "2 False", done.stderr  # and nothing was loaded
    assert "torchvision is not installed" in before and "pip install --no-deps --target /nowhere/torchvision" in before
    if BESIDE.is_dir():  # found too late
        assert done.stdout.splitlines()[1] == "2"
        assert len(after) == 1 and "before importing transformers" in after[0]


def test_the_version_that_is_named_belongs_to_this_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.search(r"torchvision==(\d+\.\d+)\.\*", find_torchvision._advice())
    assert named is not None
    installed = [path.name for path in BESIDE.glob("torchvision-*.dist-info")]
    assert all(name.startswith(f"torchvision-{named[1]}.") for name in installed)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert find_torchvision._advice() == f"pip install 'torchvision=={named[1]}.*'"


def test_without_pillow_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_torchvision, "_importable", lambda name: name != "PIL")
    with pytest.raises(MissingExtraError, match="pip install pillow"):
        find_torchvision.find_torchvision()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (["--compressor", "st_simdif"], "did you mean 'st_simdiff'"),
        (["--compressor", "./none"], "no adapter folder"),
        (["--budget", "1.5"], "(0, 1]"),
        (["--budget", "0"], "budget"),
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


class Sleeper:
    """Stands in for a host: hands over a prompt and then tokens, after known times."""

    device = torch.device("cpu")

    def __init__(self, *pauses: float) -> None:
        self.pauses = pauses

    def generate(self, streamer: Any, input_ids: torch.Tensor, **settings: Any) -> torch.Tensor:
        streamer.put(input_ids[:, :3])  # of a prompt that was shortened
        for pause in self.pauses:
            time.sleep(pause)
            streamer.put(torch.tensor([7]))
        streamer.end()
        return torch.cat([input_ids, torch.full((1, len(self.pauses)), 7)], dim=1)


def test_prefill_is_the_time_to_the_first_token_and_decode_that_of_each_further_one() -> None:
    inputs = {"input_ids": torch.arange(5)[None]}
    timed = measure.generate(Sleeper(0.2, 0.02, 0.04, 0.03), inputs, 4)  # type: ignore[arg-type]
    assert (timed.ids.tolist(), timed.prompt) == ([7] * 4, 3)
    assert timed.prefill == pytest.approx(0.2, rel=0.3) and timed.decode == pytest.approx(0.03, rel=0.5)
    assert measure.generate(Sleeper(0.01), inputs, 1).decode is None  # type: ignore[arg-type]


def test_peak_memory_is_what_a_call_needs_meanwhile_however_often_it_runs() -> None:
    def need(mebibytes: int) -> float:
        def work() -> None:
            torch.ones(mebibytes * 2**18)
            time.sleep(0.02)

        return measure.peak_memory(work, torch.device("cpu")) / 2**20

    assert [need(size) for size in (64, 64, 16, 16, 16, 0)] == pytest.approx([64, 64, 16, 16, 16, 0], abs=6)


@pytest.fixture(scope="module")
def task() -> Task:
    """The embedded host on 16 frames, its inputs made without a processor."""
    embedded = load_host(ROOT / "checkpoints/tinyhost")
    video = synthesize(0, split="test", frames=16)
    text = embedded.tokenizer("<user><video> what color ?<assistant>", add_special_tokens=False)["input_ids"]
    at = text.index(embedded.model.config.video_token_id)
    ids = torch.tensor([text[:at] + [text[at]] * (16 * 16 + 1) + text[at + 1 :]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": embedded.pixel_values(video.frames),
    }
    processor = type("Processor", (), {"tokenizer": embedded.tokenizer})
    return Task(embedded.model, processor, inputs, torch.from_numpy(video.times), "preserve", 3)


def test_the_two_ways_take_turns_and_leave_the_host_as_it_was(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], answer_runs.generate

    def noted(model: nn.Module, inputs: dict[str, Any], new: int) -> measure.Timed:
        timed = real(model, inputs, new)  # type: ignore[arg-type]
        calls.append(("few" if hasattr(model, "compressor") else "all", new))
        return timed

    monkeypatch.setattr(answer_runs, "generate", noted)
    result = run(task, build("uniform", 10), compare=True, repeats=2)
    warm, clock, memory = [("few", 2), ("all", 2)], [("few", 3), ("all", 3)] * 2, [("few", 3), ("all", 3)]
    assert calls == warm + clock + memory
    assert not hasattr(task.model, "compressor") and "generate" not in vars(task.model)
    assert result.full is not None
    assert (result.visual, result.full.visual, result.compressed.visual) == (256, 256, 10)
    assert result.full.prompt - result.compressed.prompt == 246
    assert result.text == result.compressed.text


def test_times_are_medians_and_the_first_run_does_not_count(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([99.0, 3.0, 1.0, 2.0, 50.0])  # warm-up, three timed, memory

    def timed(*args: Any) -> measure.Timed:
        return measure.Timed(torch.tensor([5]), 9, next(seconds), None)

    monkeypatch.setattr(answer_runs, "generate", timed)
    monkeypatch.setattr(answer_runs, "_warm_up", lambda task, *args: (timed() and 256, 10))
    assert run(task, build("uniform", 10), compare=False, repeats=3).compressed.prefill == 2


def test_positions_and_processor_are_passed_on(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], answer_runs.attach
    monkeypatch.setattr(answer_runs, "attach", lambda *args, **more: seen.append(more) or real(*args, **more))
    run(Task(**{**vars(task), "positions": "compact"}), build("uniform", 10), compare=False, repeats=1)
    assert {(more["positions"], more["tokenizer"]) for more in seen} == {("compact", task.processor)}


def test_pixels_take_the_dtype_of_the_host_and_other_numbers_keep_theirs() -> None:
    model = nn.Linear(1, 1).bfloat16()
    host: Any = type("Host", (), {"device": torch.device("cpu"), "dtype": model.weight.dtype})
    inputs = {"pixel_values_videos": torch.ones(2), "second_per_grid_ts": torch.tensor([0.1]), "other": [1]}
    placed = answer_runs.place({**inputs, "input_ids": torch.tensor([1])}, host)
    kinds = {name: getattr(value, "dtype", None) for name, value in placed.items()}
    assert list(kinds.values()) == [torch.bfloat16, torch.float32, None, torch.int64]
