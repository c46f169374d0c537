"""The ablation on the embedded host, in miniature: equal tokens, paired questions, nothing done twice."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import framefold
from framefold.adapters.base.selector import Selector
from framefold.adapters.core import registry
from framefold.adapters.core.budget import budget_tokens
from framefold.data.evidence import evidence_mask
from framefold.data.synthetic.questions import QUESTION_TYPES
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError, FramefoldError, ResultsError, UnknownCompressorError
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.ablation.ask import evaluate_questions
from framefold.evaluation.ablation.batches import Batches, HeldOutBatch
from framefold.evaluation.ablation.feature_cache import FeatureCache
from framefold.evaluation.ablation.heldout import Synthetic
from framefold.evaluation.ablation.methods import source_digest
from framefold.evaluation.ablation.oracles import KeepEvidence
from framefold.evaluation.results import provenance as digests
from framefold.evaluation.results.cells import FOLDER, read_cells
from framefold.evaluation.results.provenance import host_digest
from framefold.training.frozen_host.load import load_host
from tests.support.paths import TINYHOST as HOST

SMALL = {"host": str(HOST), "videos": 4, "frames": 16, "budgets": [0.25, 40]}


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    """They take a second each time, and are looked at in test_report.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
        yield


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fila adapter that has not been trained."""
    folder = tmp_path_factory.mktemp("adapter")
    fila = framefold.build("fila", 0.1, members="cluster")
    fila(framefold.VideoTokens.from_grid(torch.randn(4, 4, 4, 128)))
    fila.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    out = tmp_path_factory.mktemp("results")
    ablate(str(out), adapters=[str(adapter)], **SMALL)
    return out


def heldout(folder: Path, frames: int = 16, videos: int = 2, difficulty: str = "easy") -> HeldOutBatch:
    """One batch of synthetic videos as the shipped host saw them."""
    host = load_host(HOST)
    cache = FeatureCache(folder, host, Synthetic(Recipe((frames, frames), 0, "test", difficulty), videos), {})
    cache.fill()
    return next(iter(Batches(host, cache, videos)))


def by_row(results: Path) -> dict[tuple[str, float], dict]:
    return {(cell["compressor"], cell["budget"]): cell for cell in read_cells(results)}


def test_every_registered_compressor_is_there_at_exactly_equal_tokens(results: Path) -> None:
    cells = by_row(results)
    for name in framefold.list_compressors():
        cls = type(framefold.build(name))
        if cls.trainable and name != "fila":
            continue
        budgets = SMALL["budgets"] if cls.exact_budget else [1.0]
        for budget in budgets:
            cell = cells[name, budget]
            kept = budget_tokens(budget, 16 * 16)
            assert set(cell["answers"]["tokens"]) == {kept}
            assert cell["cost"]["tokens_entered"] == kept + 1, "the newline of the host and nothing else comes on top"
            assert {"compressor", "budget", "seed", "host", "tokens", "n", "accuracy", "accuracy_by_type"} <= set(cell)
    assert ("oracle", 0.25) in cells and ("oracle_events", 0.25) in cells


def test_twins_are_one_draw_of_the_statistics(results: Path) -> None:
    cell = by_row(results)["uniform", 0.25]
    assert set(cell["answers"]["draw"]) == set(range(SMALL["videos"] // 2))
    assert set(cell["answers"]["video"]) == set(range(SMALL["videos"]))


def test_the_oracle_of_events_keeps_every_event_whatever_is_asked(tmp_path: Path) -> None:
    recipe = Recipe((16, 16), 0, "test", "hard")
    batch = heldout(tmp_path, difficulty="hard")
    for index, mask in enumerate(batch.events):
        events = [event for event in recipe.video(index).events if event.kind in ("flash", "mover")]
        boxes = [box for event in events for box in event.boxes]
        assert np.array_equal(mask, evidence_mask(boxes, (16, 4, 4)).reshape(-1))
    chosen: list[int] = []
    oracle = KeepEvidence(lambda n: chosen.append(n) or 100, asked=False)
    _, kept, _ = evaluate_questions(load_host(HOST), oracle, [batch], drill=2)
    assert len(chosen) == len(kept) == 2, "one choice a video, not one a question"
    for entry, mask in zip(kept, batch.events, strict=True):
        assert set(np.flatnonzero(mask)) <= set(entry["index"]) or mask.sum() > 100


def test_all_rows_answered_the_same_questions(results: Path) -> None:
    asked = {json.dumps([c["answers"]["video"], c["answers"]["type"]]) for c in read_cells(results)}
    assert len(asked) == 1


def test_an_untrained_adapter_answers_as_its_counterpart_with_its_parameters(results: Path) -> None:
    cells = by_row(results)
    for budget in SMALL["budgets"]:
        twin = cells["scene_mean", budget]
        assert twin["settings"]["params"]["members"] == "cluster"
        assert cells["fila", budget]["answers"] == twin["answers"]


def test_finished_cells_are_not_run_again(results: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in (results / FOLDER).iterdir()}
    gone = results / FOLDER / "uniform-b0.25-s0.json"
    old = json.loads(gone.read_text())["answers"]
    gone.unlink()
    ablate(str(results), adapters=[str(adapter)], batch_size=3, **SMALL)
    after = {file: file.stat().st_mtime_ns for file in (results / FOLDER).iterdir()}
    assert [file for file in before if before[file] != after[file]] == [gone]
    assert json.loads(gone.read_text())["answers"] == old, "another batch size changed an answer"
    assert f"{len(before)} cells, {len(before) - 1} already there" in capsys.readouterr().out


def test_the_shipped_adapter_fits_the_shipped_host_and_beats_what_it_started_at(tmp_path: Path) -> None:
    shipped = HOST.parent / "fila"
    few = {"host": str(HOST), "videos": 16, "frames": 64, "budgets": [0.02], "difficulty": "hard"}
    ablate(str(tmp_path), compressors=["scene_mean", "st_simdiff"], adapters=[str(shipped)], **few)
    cells = {name: cell["accuracy"] for (name, _), cell in by_row(tmp_path).items()}
    best = max(cells["scene_mean"], cells["st_simdiff"])
    assert cells["fila"] > best + 0.1
    assert cells["oracle"] > best + 0.2 and cells["oracle"] > cells["oracle_events"], "there is room to win"
    assert cells["identity"] > max(best, cells["fila"], cells["oracle_events"]), "compression repairs no broken host"


def test_a_folder_that_cannot_be_is_found_out_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def encoded(*args: object) -> None:
        raise AssertionError("videos were encoded first")

    monkeypatch.setattr(FeatureCache, "fill", encoded)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        ablate(str(tmp_path / "file"), compressors=["uniform"], **SMALL)


def test_the_oracle_keeps_the_evidence_and_fills_up_evenly() -> None:
    video = framefold.VideoTokens.from_grid(torch.randn(5, 2, 2, 3))
    some, all_of_it = np.zeros(20, bool), np.ones(20, bool)
    some[[3, 8]] = True
    oracle = KeepEvidence(lambda n: 6)
    oracle.begin(SimpleNamespace(evidence=[some, all_of_it]))
    first, second = oracle(video).tokens, oracle(video).tokens
    assert len(first) == len(second) == 6
    assert {3, 8} <= set(first.index.tolist())
    assert first.index.tolist() == sorted(first.index.tolist())


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"seeds": [-1], "compressors": ["random"]}, "seed must be"),
        ({"exclude": ["needel"]}, "did you mean 'needle'"),
        ({"baseline": "unifrm"}, "did you mean 'uniform'"),
        ({"device": "tpu"}, "tpu"),
        ({"drill": -1}, "drill not negative"),
        ({"data": "nowhere"}, "no shards at nowhere"),
        ({"exclude": list(QUESTION_TYPES)}, "no question type"),
        ({"compressors": ["fila"]}, "no adapter"),
        ({"params": {"fila": {"r": 1}}, "adapters": 1}, "those of its adapter"),
        ({"adapters": 2}, "both fila trained with seed 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    arguments: dict, text: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "framefold.training.frozen_host.load.load_host", lambda host: pytest.fail("the host was loaded")
    )
    arguments = SMALL | arguments | {"adapters": [str(adapter)] * arguments.get("adapters", 0)}
    with pytest.raises(FramefoldError, match=text):
        ablate(str(tmp_path / "out"), **arguments)
    assert not (tmp_path / "out").exists()


def test_seeds_of_its_own_budgets_of_one_number_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"host": str(HOST), "videos": 2, "frames": 16, "compressors": ["random", "uniform", "uniform"]}
    ablate(str(tmp_path), **few, budgets=[1, 1.0, 0.1, 0.10000001, 1], seeds=[0, 1, 1], oracle=False)
    cells = read_cells(tmp_path)
    keys = sorted((c["compressor"], repr(c["budget"]), c["seed"]) for c in cells)
    assert keys == sorted(
        [("identity", "1.0", 0)]
        + [("random", b, s) for b in ("1", "1.0", "0.1", "0.10000001") for s in (0, 1)]
        + [("uniform", b, 0) for b in ("1", "1.0", "0.1", "0.10000001")]
    )
    capsys.readouterr()
    ablate(str(tmp_path), **few, budgets=[1, 1.0, 0.1, 0.10000001], seeds=[0, 1], oracle=False)
    assert f"{len(cells)} cells, {len(cells)} already there" in capsys.readouterr().out


def test_a_seed_may_be_given_as_a_parameter(tmp_path: Path) -> None:
    ablate(
        str(tmp_path), str(HOST), ["random"], params={"random": {"seed": 3}}, budgets=[0.1], videos=2, frames=16,
        oracle=False,
    )  # fmt: skip
    assert [c["settings"]["params"] for c in read_cells(tmp_path) if c["compressor"] == "random"] == [{"seed": 3}]


def test_old_cells_of_other_videos_stop_the_ablation_before_it_runs(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "copy")
    with pytest.raises(ResultsError, match="differ in videos"):
        ablate(str(tmp_path / "copy"), str(HOST), ["uniform"], budgets=[0.5], videos=3, frames=16)
    assert not list((tmp_path / "copy" / FOLDER).glob("*b0.5*"))


def test_digests_tell_hosts_and_code_apart(tmp_path: Path, random_host: Path) -> None:
    before = host_digest(random_host)
    shutil.copytree(random_host, tmp_path / "host")
    assert host_digest(tmp_path / "host") == before != host_digest(HOST)
    config = tmp_path / "host" / "config.json"
    config.write_text(config.read_text() + " ")
    assert host_digest(tmp_path / "host") != before
    uniform, fila = (source_digest(type(framefold.build(name))) for name in ("uniform", "fila"))
    assert len({uniform, fila, source_digest()}) == 3
    assert uniform == source_digest(type(framefold.build("uniform")))


def test_the_digest_of_a_method_follows_the_source_it_is_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(digests, "file_digest", lambda file: read.append(file.name) or "")
    source_digest(type(framefold.build("fila")))
    assert {"fila.py", "scene_mean.py", "kmeans.py", "ops.py", "base.py", "heldout.py", "synthetic.py"} <= set(read)
    assert not {"uniform.py", "st_simdiff.py", "report.py"} & set(read)


def test_cells_of_other_weights_are_not_reused(adapter: Path, tmp_path: Path, capsys) -> None:
    few = {"host": str(HOST), "videos": 2, "frames": 16, "compressors": ["uniform"], "budgets": [0.1], "oracle": False}
    ablate(str(tmp_path / "out"), adapters=[str(adapter)], **few)
    other = framefold.load(adapter)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.save_pretrained(tmp_path / "other")
    capsys.readouterr()
    ablate(str(tmp_path / "out"), adapters=[str(tmp_path / "other")], **few)
    assert "3 cells, 2 already there" in capsys.readouterr().out


def test_the_oracle_spreads_what_it_keeps_and_gets_the_evidence_of_the_question(tmp_path: Path) -> None:
    video = framefold.VideoTokens.from_grid(torch.randn(10, 1, 1, 3))
    oracle = KeepEvidence(lambda n: 2)
    oracle.begin(SimpleNamespace(evidence=[np.zeros(10, bool)]))
    assert oracle(video).tokens.index.tolist() == [2, 7]
    batch = heldout(tmp_path)
    alone = batch.asked.alone()
    assert alone.types == batch.asked.types and len(alone.encoded) == len(batch.evidence)
    owners = batch.asked.rows.video.tolist()
    assert all(clip is batch.asked.encoded[video] for clip, video in zip(alone.encoded, owners, strict=True))
    assert len({mask.tobytes() for mask in batch.evidence}) > 2
    questions = [question for index in (0, 1) for question in Recipe((16, 16), 0, "test").video(index).questions]
    for question, mask in zip(questions, batch.evidence, strict=True):
        assert np.array_equal(mask, evidence_mask(question.evidence, (16, 4, 4)).reshape(-1))


def test_the_cost_of_a_cell_was_measured(results: Path) -> None:
    for cell in read_cells(results):
        cost = cell["cost"]
        assert all(
            cost[name] > 0 for name in ("compressor_ms", "prefill_ms", "full_prefill_ms", "answering_ms", "speedup")
        )
        assert cost["peak_bytes"] > 0 and cost["full_prefill_flops"] >= cost["prefill_flops"] > 0
    cells = by_row(results)
    assert cells["identity", 1.0]["cost"]["prefill_flops"] == cells["uniform", 0.25]["cost"]["full_prefill_flops"]
    small, large = cells["uniform", 40]["cost"], cells["uniform", 0.25]["cost"]
    assert small["prefill_flops"] < large["prefill_flops"] and small["peak_bytes"] < large["peak_bytes"]


def test_what_was_asked_and_answered_stands_in_the_cell(results: Path) -> None:
    asked = [question for index in range(4) for question in Recipe((16, 16), 0, "test").video(index).questions]
    for cell in read_cells(results):
        answers = cell["answers"]
        assert answers["question"] == [question.text for question in asked]
        assert answers["answer"] == [question.answer for question in asked]
        right = [said == answer for said, answer in zip(answers["said"], answers["answer"], strict=True)]
        assert answers["correct"] == right


def test_what_was_kept_of_the_first_videos_stands_in_the_cell(results: Path) -> None:
    cells = by_row(results)
    for name, budget in (("uniform", 40), ("pool", 40), ("oracle_events", 40)):
        kept = cells[name, budget]["kept"]
        assert [entry["video"] for entry in kept] == [0, 1, 2, 3] and cells[name, budget]["drill"] == 6
        assert all(entry["row"] is None and entry["grid"] == [16, 4, 4] for entry in kept)
        assert all(len(entry["index"]) == 40 for entry in kept)
    assert all(sum(entry["size"]) == 256 for entry in cells["pool", 40]["kept"])
    assert all(entry["size"] is None for entry in cells["uniform", 40]["kept"])
    told = cells["oracle", 40]["kept"]
    assert [entry["row"] for entry in told] == list(range(len(cells["oracle", 40]["answers"]["video"])))
    assert [entry["video"] for entry in told] == cells["oracle", 40]["answers"]["video"]


def test_evidence_recall_is_the_share_of_the_evidence_that_was_kept(results: Path) -> None:
    cells = by_row(results)
    assert set(cells["identity", 1.0]["answers"]["recall"]) == {1.0} == set(cells["pool", 40]["answers"]["recall"])
    assert cells["pool", 40]["evidence_purity"] < 0.5 < cells["oracle", 40]["evidence_recall"]
    row = 0
    for index in range(2):
        kept = set(cells["uniform", 0.25]["kept"][index]["index"])
        for question in Recipe((16, 16), 0, "test").video(index).questions:
            evidence = set(np.flatnonzero(evidence_mask(question.evidence, (16, 4, 4))).tolist())
            found = cells["uniform", 0.25]["answers"]
            assert found["recall"][row] == pytest.approx(len(evidence & kept) / len(evidence)) == found["purity"][row]
            row += 1


def test_adapters_of_several_seeds_are_one_row(tmp_path: Path, adapter: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    framefold.load(adapter).save_pretrained(again, training={"seed": 1})
    framefold.build("fila", 0.1, members="cluster", r=2, dim=128, grid=[4, 4]).save_pretrained(
        other, training={"seed": 2}
    )
    small = {**SMALL, "budgets": [40], "compressors": ["uniform"], "oracle": False}
    ablate(str(tmp_path / "out"), adapters=[str(adapter), str(again)], **small)
    cells = [cell for cell in read_cells(tmp_path / "out") if cell["compressor"] == "fila"]
    assert sorted(cell["seed"] for cell in cells) == [0, 1]
    with pytest.raises(ConfigError, match="different parameters"):
        ablate(str(tmp_path / "out"), adapters=[str(adapter), str(other)], **small)


def test_a_query_aware_adapter_is_asked_once_a_question_and_takes_part(tmp_path: Path) -> None:
    selector = framefold.build("qtsplus", 0.1, dim=128, heads=4)
    selector.save_pretrained(tmp_path / "adapter")
    small = {**SMALL, "budgets": [0.25, 40], "compressors": ["random"], "oracle": False}
    ablate(str(tmp_path / "out"), adapters=[str(tmp_path / "adapter")], **small)
    cells = by_row(tmp_path / "out")
    for budget in (0.25, 40):
        assert set(cells["qtsplus", budget]["answers"]["tokens"]) == {budget_tokens(budget, 256)}
        assert cells["qtsplus", budget]["n"] == cells["random", budget]["n"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "qtsplus - random" in report and "best trained - best training-free" in report


def test_chains_are_rows_with_parameters_and_seeds_of_their_stages(tmp_path: Path) -> None:
    small = {**SMALL, "budgets": [40], "oracle": False, "seeds": [0, 1]}
    names = ["uniform+random", "uniform+st_simdiff"]
    ablate(str(tmp_path), compressors=names, params={"uniform+st_simdiff": {"st_simdiff": {"right": False}}}, **small)
    cells = read_cells(tmp_path)
    assert sorted(cell["seed"] for cell in cells if cell["compressor"] == names[0]) == [0, 1]
    (other,) = [cell for cell in cells if cell["compressor"] == names[1]]
    assert other["settings"]["params"] == {"st_simdiff": {"right": False}} and set(other["answers"]["tokens"]) == {40}
    drawn = [cell["answers"]["correct"] for cell in cells if cell["compressor"] == names[0]]
    assert drawn[0] != drawn[1]
    with pytest.raises(ConfigError, match="rite"):
        ablate(str(tmp_path), compressors=names, params={names[1]: {"st_simdiff": {"rite": False}}}, **small)
    with pytest.raises(UnknownCompressorError, match="st_simdif"):
        ablate(str(tmp_path), compressors=names, params={"uniform+st_simdif": {}}, **small)


def test_the_start_of_a_trained_chain_has_its_parameters(tmp_path: Path) -> None:
    chain = framefold.build("storm+st_simdiff", 0.1, storm={"dim": 128, "layers": 1}, st_simdiff={"right": False})
    chain.save_pretrained(tmp_path / "adapter")
    small = {**SMALL, "budgets": [40], "oracle": False, "compressors": ["st_simdiff"]}
    ablate(str(tmp_path / "out"), adapters=[str(tmp_path / "adapter")], **small)
    cells = by_row(tmp_path / "out")
    assert cells["st_simdiff", 40]["settings"]["params"]["right"] is False
    assert cells["st_simdiff", 40]["answers"] == cells["storm+st_simdiff", 40]["answers"], "untrained, it is its start"
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("storm+st_simdiff - st_simdiff") == 1


def test_a_method_that_needs_received_attention_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    seen = []

    class Attended(Selector):
        name = "test_attended"
        needs_attention = True

        def score(self, video, query):
            seen.append(video.attention)
            return video.attention

    ablate(str(tmp_path), compressors=["test_attended"], **{**SMALL, "budgets": [40], "oracle": False})
    assert by_row(tmp_path)["test_attended", 40]["tokens"] == 40
    assert len(seen) >= SMALL["videos"] and all(float(one.std()) > 0 for one in seen)
