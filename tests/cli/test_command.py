"""The framefold command: quick help, lazy verbs, and every error as one clear line."""

import functools
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional, get_args

import pytest

import framefold
from framefold.__main__ import FUNCTIONS, LIGHTNING, _load, main
from framefold.adapters.core.budget import Budget
from framefold.cli.parser import call
from framefold.configs import ConfigNotFoundError, expand_names, find_config, names
from framefold.configs.arguments import join_lists
from framefold.evaluation.ablation import ablate


def run(*args: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "framefold", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}, cwd=cwd
    )


def test_help_lists_every_verb_quickly_and_without_torch() -> None:
    code = "import sys; from framefold.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # warms the bytecode
    times = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        times.append(time.perf_counter() - start)
    assert all(verb in done.stdout for verb in [*LIGHTNING, *FUNCTIONS])
    assert min(times) < 0.3


@pytest.mark.parametrize("verb", [*LIGHTNING, *FUNCTIONS])
def test_every_verb_has_help(verb: str) -> None:
    done = run(*verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and "--" in done.stdout


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["fot"], "unknown verb 'fot'"),
        (["shards"], "unknown verb 'shards'"),
        (["ablate", "--out", "x", "--budget", "3"], "--budget"),
        (["ablate"], "out"),
        (["ablate", "--out", "x", "--compressors", "st_simdif"], "did you mean 'st_simdiff'"),
        (["ablate", "--out", "x", "--budgets", "1.5"], "(0, 1]"),
        (["ablate", "--out", "x", "--host", "nowhere"], "nowhere"),
        (["ablate", "--out", "x", "--config", "ablation/none"], "ablation/demo"),
        (["report", "--results", "nowhere"], "nowhere"),
        (["export", "--checkpoint", "nowhere", "--out", "x"], "nowhere"),
    ],
)
def test_wrong_usage_ends_with_one_line_and_nothing_written(args: list[str], text: str, tmp_path: Path) -> None:
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("framefold: error: ") and text in lines[0], done.stderr
    assert not (tmp_path / "x").exists()


def test_a_missing_extra_names_the_command_that_installs_it(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    monkeypatch.delitem(sys.modules, "framefold.cli.parser", raising=False)
    assert main(["report", "--results", "x"]) == 2
    assert "pip install 'framefold[train]'" in capsys.readouterr().err


def test_a_whole_number_stays_one_whoever_asked_typing_for_a_float_or_an_int_before() -> None:
    got: list[object] = []

    def verb(budget: Budget | None = None) -> None:
        got.append(budget)

    assert get_args(Optional[float | int | None])[0] is float  # noqa: UP045 (typing remembers it for int | float, too)
    for text in ("64", "0.5", "null"):
        call(verb, "verb", ["--budget", text])
    assert repr(got) == "[64, 0.5, None]"


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_no_verb_leaves_the_order_of_int_and_float_to_typing(verb: str) -> None:
    parameters = inspect.signature(_load(FUNCTIONS[verb][0]), eval_str=True).parameters
    unions = [name for name, p in parameters.items() if {int, float, type(None)} <= set(get_args(p.annotation))]
    assert not unions, "take training.options.Budget"


def test_an_interrupt_ends_with_one_line(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("framefold.__main__._run", interrupted)
    assert main(["report"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_lists_may_be_written_with_blanks() -> None:
    def function(frames: list[int] | None = None, seed: int = 0) -> None: ...

    assert join_lists(function, ["--frames", "32", "64", "--seed", "1"]) == ["--frames=[32,64]", "--seed", "1"]
    assert join_lists(function, ["--frames", "[32,64]"]) == ["--frames", "[32,64]"]


def test_dashes_in_the_name_of_an_option_are_underscores() -> None:
    seen = []

    def function(max_new_tokens: int = 0, some_names: list[str] | None = None, dry_run: bool = False) -> None:
        seen.append((max_new_tokens, some_names, dry_run))

    assert call(function, "x", ["--max-new-tokens", "5", "--some-names", "a-b", "-c"]) == 0
    assert call(function, "x", ["--max-new-tokens=5", "--some_names=[a-b,-c]", "--dry-run"]) == 0
    assert seen == [(5, ["a-b", "-c"], False), (5, ["a-b", "-c"], True)]
    assert join_lists(function, ["--text=--a-b", "a--b-c"], "data.") == ["--text=--a-b", "a--b-c"]
    with pytest.raises(SystemExit, match="max_now_tokens"):
        call(function, "x", ["--max-now-tokens", "5"])


def test_a_switch_needs_no_value() -> None:
    seen = []

    def function(dry_run: bool = False, name: str = "") -> None:
        seen.append((dry_run, name))

    for words in (["--dry_run"], ["--dry_run", "--name", "x"], ["--dry_run", "true"], ["--dry_run=false"], []):
        assert call(function, "x", words) == 0
    assert [first for first, _ in seen] == [True, True, True, False, False]


def test_every_error_of_ours_is_caught_by_one_base_class() -> None:
    from framefold import errors
    from framefold.errors import DataError, HostError

    ours = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    assert len(ours) > 5
    for cls in (*ours, DataError, HostError, ConfigNotFoundError):
        assert issubclass(cls, framefold.FramefoldError)


def test_packaged_configs_go_by_short_name_and_files_by_path(tmp_path: Path) -> None:
    assert "ablation/demo" in names()
    assert find_config("ablation/demo").read_text()
    own = tmp_path / "own.yaml"
    own.write_text("videos: 3\n")
    assert find_config(str(own)) == own
    assert expand_names(["--config", "ablation/demo", "--x=1"])[1].endswith("demo.yaml")
    with pytest.raises(ConfigNotFoundError, match="ablation/demo"):
        find_config("ablation/nothing")


@pytest.mark.parametrize(
    "words", [["2024"], ["my runs/fila", "b"], ["a: b"], ["a #b"], ["true"], ["{x}"], ["*x"], ["null", "x"], ["it's"]]
)
def test_words_of_a_list_stay_the_words_that_were_typed(words: list[str]) -> None:
    seen = []

    def function(names: list[str] | None = None, more: list[int | float] | None = None) -> None:
        seen.extend([names, more])

    assert call(function, "x", ["--names", *words, "--more", "40", "0.5"]) == 0
    assert seen == [words, [40, 0.5]] and isinstance(seen[1][0], int)


def test_budgets_of_the_ablation_may_be_numbers_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    real = ablate.ablate

    @functools.wraps(real)
    def noted(**arguments: object) -> None:
        seen.update(arguments)

    assert call(noted, "ablate", ["--out", "x", "--budgets", "40", "1", "1.0", "0.5"]) == 0
    assert [repr(budget) for budget in seen["budgets"]] == ["40", "1", "1.0", "0.5"]


def test_a_config_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00\xd8\x80")
    with pytest.raises(SystemExit, match="codec|config"):
        call(lambda seed=0: None, "x", ["--config", str(tmp_path / "x.yaml")])
