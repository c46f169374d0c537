"""Methods of an ablation: the default list, the settings of their results, and digests of their source."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import framefold
from framefold.adapters.core.registry import compressor_class
from framefold.errors import ConfigError, UnknownCompressorError
from framefold.evaluation.ablation.methods import Method, _labelled, source_digest
from framefold.evaluation.ablation.row_methods import methods_of
from framefold.evaluation.report.methods import class_of
from framefold.evaluation.results import provenance
from framefold.evaluation.results.provenance import host_digest
from framefold.evaluation.results.settings import ORACLES, Settings
from tests.support.paths import TINYHOST

MODULE = "framefold.evaluation.ablation.methods"
BASE = Settings("", {}, None, 1.0, 0, "host", "digest", "float32", {}, [])


def settings_of(method: Method, budgets: list[Any], seeds: list[int]) -> list[tuple[str, int]]:
    return [(repr(one.budget), one.seed) for one in method.result_settings(budgets, seeds, BASE)]


def test_default_methods_are_all_compressors_that_need_no_training_and_the_oracles(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainable = {name for name in framefold.list_compressors() if compressor_class(name).trainable}
    methods = methods_of(None, [], {}, oracle=True, events=True)
    assert [method.name for method in methods[-2:]] == list(ORACLES)
    assert {method.name for method in methods[:-2]} == {*framefold.list_compressors()} - trainable
    assert capsys.readouterr().out.count("is left out") == len(trainable)
    assert {m.name for m in methods_of(["uniform"], [], {}, oracle=True, events=False)} == {
        "uniform", "identity", ORACLES[0],
    }  # fmt: skip


def test_only_random_methods_have_several_seeds_and_only_exact_ones_several_budgets() -> None:
    budgets, names = [1, 1.0, 0.1, 0.10000001], ["1", "1.0", "0.1", "0.10000001"]
    assert settings_of(Method("random", {}), budgets, [0, 1]) == [(name, seed) for name in names for seed in (0, 1)]
    assert settings_of(Method("uniform", {}), budgets, [0, 1]) == [(name, 0) for name in names]
    assert settings_of(Method("random", {"seed": 3}), [0.1], [0, 1]) == [("0.1", 0)], "a given seed is fixed"
    assert settings_of(Method("identity", {}), budgets, [0, 1]) == [("1.0", 0)]
    files = [one.file for one in Method("random", {}).result_settings(budgets, [0, 1], BASE)]
    assert len(set(files)) == len(files), "1 token and all tokens are different results"


def test_parameters_of_unknown_stages_are_errors() -> None:
    chain = "uniform+st_simdiff"
    (method, *_) = methods_of([chain], [], {chain: {"st_simdiff": {"rite": False}}}, oracle=False, events=False)
    with pytest.raises(ConfigError, match="rite"):
        method.build(0.1, 0)
    with pytest.raises(UnknownCompressorError, match="st_simdif"):
        methods_of([chain], [], {"uniform+st_simdif": {}}, oracle=False, events=False)


def test_a_label_adds_a_row_of_a_compressor_with_its_own_parameters() -> None:
    params: dict[str, dict[str, Any]] = {"fastv": {"layer": 3}, "fastv (layer 2)": {"layer": 2}}
    methods = methods_of(["fastv"], [], params, oracle=False, events=False)
    assert [method.name for method in methods] == ["fastv", "fastv (layer 2)", "identity"]
    assert [method.build(0.5, 0).params() for method in methods[:2]] == [{"layer": 3}, {"layer": 2}]
    assert class_of("fastv (layer 2)") is compressor_class("fastv")
    for key in ("fastv (LoRA)", "fastv ()", "fastv (a/b)", "fastv (a) (b)", "fastv (a", "fastv (equal FLOPs)"):
        with pytest.raises(ConfigError, match="label consists of"):
            methods_of(["fastv"], [], {key: {}}, oracle=False, events=False)
    with pytest.raises(ConfigError, match="no compressor 'fastw'"):
        methods_of(["fastv"], [], {"fastw (a)": {}}, oracle=False, events=False)


def test_adapters_trained_at_different_budgets_are_methods_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = {"a": [0.1], "b": [0.1], "c": [0.5, 0.25], "d": None}
    monkeypatch.setattr(f"{MODULE}._training_field", lambda folder, name, kind: trained[folder.name])

    def names(*folders: str, compressor: str = "fila") -> list[str]:
        return [one.name for one in _labelled([Method(compressor, {}, folder) for folder in folders])]

    assert names("a", "b") == ["fila", "fila"], "seeds of one method"
    assert names("a", "c") == ["fila (trained at 0.1)", "fila (trained at 0.5, 0.25)"]
    assert names("a", "d")[1] == "fila (trained at unknown budgets)"
    assert class_of("fila (trained at 0.5, 0.25)") is compressor_class("fila")


def test_digests_distinguish_hosts_and_compressors(tmp_path: Path, random_host: Path) -> None:
    before = host_digest(random_host)
    shutil.copytree(random_host, tmp_path / "host")
    assert host_digest(tmp_path / "host") == before != host_digest(TINYHOST)
    config = tmp_path / "host" / "config.json"
    config.write_text(config.read_text() + " ")
    assert host_digest(tmp_path / "host") != before
    uniform, fila = (source_digest(compressor_class(name)) for name in ("uniform", "fila"))
    assert len({uniform, fila, source_digest()}) == 3
    assert uniform == source_digest(compressor_class("uniform"))


def test_digest_of_a_method_covers_the_source_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(provenance, "file_digest", lambda file: read.append(file.name) or "")
    source_digest(compressor_class("fila"))
    used = {"fila.py", "scene_mean.py", "kmeans.py", "segments.py", "compressor.py", "heldout.py", "generate.py"}
    assert used <= set(read)
    assert {"cost.py", "timing.py", "flops.py"} <= set(read), "costs are stored in results"
    assert not {"uniform.py", "st_simdiff.py", "report.py"} & set(read)


def test_results_of_a_trained_method_depend_on_the_source_of_its_counterpart(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(provenance, "file_digest", lambda file: read.append(file.name) or file.name)
    found = {}
    for counterpart in ("medoids", "uniform"):
        read.clear()
        method = Method("resampler", {"counterpart": counterpart})
        (found[counterpart],) = {one.code for one in method.result_settings([0.1], [0], BASE)}
        assert f"{counterpart}.py" in read and "resampler.py" in read
    assert found["medoids"] != found["uniform"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resize", "resized.py"),
        ("resize (side 0.5)", "resized.py"),
        ("blind", "controls.py"),
        ("one frame", "controls.py"),
        ("oracle", "keep_evidence.py"),
        ("oracle_events", "keep_evidence.py"),
        ("pool (2x frames)", "fewer_frames.py"),
        ("quota", "pool.py"),
    ],
)
def test_results_of_rows_depend_on_the_source_that_computes_them(
    name: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["resize", "grid", "reinvest:pool", "one_frame", "blind"]
    (method,) = (one for one in methods_of(["pool", "quota"], [], {}, True, True, rows) if one.name == name)

    def codes(edit: str) -> set[str]:
        monkeypatch.setattr(provenance, "file_digest", lambda path: path.name + edit * (path.name == file))
        return {one.code for one in method.result_settings([0.1], [0], BASE)}

    assert codes("") == codes("") and codes("").isdisjoint(codes("edited"))


def test_a_method_needs_attention_if_its_parameters_need_it() -> None:
    assert Method("aot", {}).needs_attention
    assert [Method("resampler", {"counterpart": name}).needs_attention for name in ("pool", "aot")] == [False, True]
    assert [Method("kffocus", {"fill": fill}).needs_attention for fill in ("pool", "aot")] == [False, True]
