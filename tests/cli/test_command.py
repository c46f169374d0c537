"""The framefold command: fast help, verbs that are imported on demand, and errors as one line."""

import functools
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path
from typing import Optional, get_args

import pytest

import framefold
from framefold.__main__ import DEVELOPERS, FUNCTIONS, LIGHTNING, _load, main
from framefold.adapters.core.budget import Budget
from framefold.cli.parser import call
from framefold.configs import ConfigNotFoundError, config_names, expand_config_names, find_config
from framefold.configs.arguments import normalize_options
from framefold.errors import WrongHostError
from framefold.evaluation.ablation import ablate
from tests.support.limits import HANG
from tests.support.paths import ROOT

# Arguments, and text of the message. All of them are wrong usage, found before anything is written to "x".
WRONG_USAGE = [
    (["fot"], "unknown verb 'fot'; did you mean 'fit'"),
    (["shards"], "unknown verb 'shards'; did you mean 'shards "),
    (["host", "train", "--out", "x"], "unknown verb 'host train'; did you mean 'tinyhost train'"),
    (["ablate", "--out", "x", "--budget", "3"], "--budget"),
    (["ablate"], "error: --out is required (options: framefold ablate --help)"),
    (["ablate", "--out", "x", "--compressors", "st_simdif"], "did you mean 'st_simdiff'"),
    (["ablate", "--out", "x", "--budgets", "1.5"], "(0, 1]"),
    (["ablate", "--out", "x", "--host", "nowhere"], "nowhere"),
    (["ablate", "--out", "x", "--config", "ablation/none"], "ablation/demo"),
    (["report", "--results", "nowhere"], "nowhere"),
    (["export", "--checkpoint", "nowhere", "--out", "x"], "nowhere"),
]


def test_help_lists_every_verb_and_imports_only_the_standard_library() -> None:
    code = (
        "import json, sys; before = set(sys.modules); sys.argv = ['framefold', '--help', 'all'];"
        " from framefold.__main__ import main; main();"
        " print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    text, _, modules = done.stdout.rstrip().rpartition("\n")
    assert all(verb in text for verb in [*LIGHTNING, *FUNCTIONS])
    assert set(json.loads(modules)) - sys.stdlib_module_names == {"framefold"}


def test_the_first_help_leaves_out_the_verbs_for_developers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = {line[2:25].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert listed == {*LIGHTNING, *FUNCTIONS} - {*DEVELOPERS} and {*DEVELOPERS} < {*FUNCTIONS}


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["framefold"])
    for verb in [*LIGHTNING, *FUNCTIONS]:
        status = main([*verb.split(), "--help"])
        out, err = capsys.readouterr()
        assert status == 0 and "usage:" in out and "--" in out, f"{verb}: {err}"


def test_wrong_usage_ends_with_one_line_and_nothing_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["framefold"])
    for args, text in WRONG_USAGE:
        status = main(args)
        lines = capsys.readouterr().err.strip().splitlines()
        assert status == 2, (args, lines)
        assert len(lines) == 1 and lines[0].startswith("framefold: error: ") and text in lines[0], (args, lines)
        assert not any(tmp_path.iterdir()), args


def test_a_process_of_its_own_prints_one_line_and_exits_with_the_status(tmp_path: Path) -> None:
    words = ["ablate", "--out", "x", "--compressors", "st_simdif"]
    command = [sys.executable, "-m", "framefold", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "st_simdiff" in done.stderr, done.stderr


def test_a_missing_extra_names_the_command_that_installs_it(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    monkeypatch.delitem(sys.modules, "framefold.cli.parser", raising=False)
    assert main(["report", "--results", "x"]) == 2
    assert f"jsonargparse is not installed (extra 'train'): pip install -e '{ROOT}[train]'\n" in capsys.readouterr().err


def test_a_whole_number_stays_whole_after_another_union_of_int_and_float() -> None:
    got: list[object] = []

    def verb(budget: Budget | None = None) -> None:
        got.append(budget)

    for clear in typing._cleanups:  # type: ignore[attr-defined]  # another test may have cached the union before
        clear()
    assert get_args(Optional[float | int | None])[0] is float  # noqa: UP045 (typing caches it for int | float, too)
    for text in ("64", "0.5", "null"):
        call(verb, "verb", ["--budget", text])
    assert repr(got) == "[64, 0.5, None]"


def test_budgets_of_verbs_are_annotated_so_that_whole_numbers_stay_whole() -> None:
    ambiguous = [
        f"{verb} --{name}"
        for verb, (target, _) in FUNCTIONS.items()
        for name, parameter in inspect.signature(_load(target), eval_str=True).parameters.items()
        if {int, float, type(None)} <= set(get_args(parameter.annotation))
    ]
    assert not ambiguous, "annotate with framefold.adapters.core.budget.Budget"


def test_an_interrupt_ends_with_one_line(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("framefold.__main__._run", interrupted)
    for words, text in (
        (["report"], "incomplete ones were removed\n"),
        (["fit", "--config", "x"], "the same command with --resume auto continues from the latest checkpoint"),
        (["shards", "features"], "the same command continues where it stopped\n"),
        (["ablate"], "the same command continues where it stopped\n"),
    ):
        assert main(words) == 130
        err = capsys.readouterr().err
        assert err.startswith("framefold: error: interrupted") and err.count("\n") == 1 and text in err, err


def test_an_error_of_a_verb_names_options_instead_of_arguments_in_python(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise WrongHostError("x was trained in another host: pass allow_other_host=True to load it anyway")

    monkeypatch.setattr("framefold.__main__._run", refuse)
    assert main(["answer"]) == 2
    assert capsys.readouterr().err.endswith("another host: pass --allow_other_host to load it anyway\n")


def test_lists_may_be_written_with_spaces() -> None:
    def function(frames: list[int] | None = None, seed: int = 0) -> None: ...

    assert normalize_options(function, ["--frames", "32", "64", "--seed", "1"]) == ["--frames=[32,64]", "--seed", "1"]
    assert normalize_options(function, ["--frames", "[32,64]"]) == ["--frames", "[32,64]"]


def test_dashes_in_the_name_of_an_option_are_underscores() -> None:
    seen = []

    def function(max_new_tokens: int = 0, some_names: list[str] | None = None, dry_run: bool = False) -> None:
        seen.append((max_new_tokens, some_names, dry_run))

    assert call(function, "x", ["--max-new-tokens", "5", "--some-names", "a-b", "-c"]) == 0
    assert call(function, "x", ["--max-new-tokens=5", "--some_names=[a-b,-c]", "--dry-run"]) == 0
    assert seen == [(5, ["a-b", "-c"], False), (5, ["a-b", "-c"], True)]
    assert normalize_options(function, ["--text=--a-b", "a--b-c"], "data.") == ["--text=--a-b", "a--b-c"]
    with pytest.raises(SystemExit, match="max_now_tokens"):
        call(function, "x", ["--max-now-tokens", "5"])


def test_a_switch_needs_no_value() -> None:
    seen = []

    def function(dry_run: bool = False, name: str = "") -> None:
        seen.append((dry_run, name))

    for words in (["--dry_run"], ["--dry_run", "--name", "x"], ["--dry_run", "true"], ["--dry_run=false"], []):
        assert call(function, "x", words) == 0
    assert [first for first, _ in seen] == [True, True, True, False, False]


def test_all_errors_of_framefold_share_one_base_class() -> None:
    from framefold import errors

    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    assert len(classes) > 5
    for cls in (*classes, ConfigNotFoundError):
        assert issubclass(cls, framefold.FramefoldError)


def test_configs_are_found_by_short_name_or_path(tmp_path: Path) -> None:
    assert "ablation/demo" in config_names()
    assert find_config("ablation/demo").read_text()
    own = tmp_path / "own.yaml"
    own.write_text("videos: 3\n")
    assert find_config(str(own)) == own
    assert expand_config_names(["--config", "ablation/demo", "--x=1"])[1].endswith("demo.yaml")
    with pytest.raises(ConfigNotFoundError, match="ablation/demo"):
        find_config("ablation/nothing")


def test_words_of_a_list_are_passed_as_they_were_typed() -> None:
    seen = []

    def function(names: list[str] | None = None, more: list[int | float] | None = None) -> None:
        seen[:] = [names, more]

    for words in (
        ["2024"], ["my runs/fila", "b"], ["a: b"], ["a #b"], ["true"], ["{x}"], ["*x"], ["null", "x"], ["it's"],
    ):  # fmt: skip
        assert call(function, "x", ["--names", *words, "--more", "40", "0.5"]) == 0
        assert seen == [words, [40, 0.5]] and isinstance(seen[1][0], int), words


def test_budgets_of_the_ablation_may_be_numbers_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    real = ablate.ablate

    @functools.wraps(real)
    def record(**arguments: object) -> None:
        seen.update(arguments)

    assert call(record, "ablate", ["--out", "x", "--budgets", "40", "1", "1.0", "0.5"]) == 0
    assert [repr(budget) for budget in seen["budgets"]] == ["40", "1", "1.0", "0.5"]


def test_a_config_that_is_not_text_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00\xd8\x80")
    with pytest.raises(SystemExit, match="codec|config"):
        call(lambda seed=0: None, "x", ["--config", str(tmp_path / "x.yaml")])


def test_errors_about_options_name_them_as_they_are_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["framefold"])
    for words, text in [
        ("answer --host x", "--video, --question are required"),
        ("shards synth --out x --videos many", "--videos: Expected int. Got value: many"),
        ("bench attach --size huge", "--size: Expected one of 'small', '7b'. Got value: huge"),
        ("ablate --out x --budgets a", "--budgets: Expected list[int | float] or null. Got value: ['a']"),
        ("answer --budget big", "--budget: Expected int, float or null. Got value: big"),
        ("fit --model.lr fast", "--model.lr: Expected float. Got value: fast"),
        ("fit --trainer.max_epochs x", "--trainer.max_epochs: Expected int or null. Got value: x"),
    ]:
        assert main(words.split()) == 2
        assert capsys.readouterr().err.startswith(f"framefold: error: {text} (options: framefold "), words
