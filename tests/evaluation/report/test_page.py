"""The page of an ablation: its numbers are those of the report, it shows kept tokens, and it trusts no text."""

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import tomllib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plotly.offline import get_plotlyjs
from webdataset.tariterators import tarfile_samples

from framefold.data.shards.sample import read_metadata, unpack_video
from framefold.errors import ResultsError
from framefold.evaluation.report import page
from framefold.evaluation.report.markdown_tables import accuracy_table, comparison_section
from framefold.evaluation.report.page import PAGE, inert_json, write_page
from framefold.evaluation.report.page_questions import pack_kept
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.result_files import Outcome, read_results, write_result
from tests.support.pages.page_reader import HOSTILE, make_hostile, read_page
from tests.support.pages.results_folders import (
    GRID,
    KEPT_VIDEOS,
    METHODS,
    RECIPE,
    VIDEOS,
    edit_results,
    fill_results,
    inside_results,
    random_outcome,
    result_settings,
)
from tests.support.paths import ROOT


def markdown_cells(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table without its rule."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def unpack_bits(text: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool)


def unpack_varints(stream: bytes) -> list[int]:
    numbers, shift = [0], 0
    for byte in stream:
        numbers[-1] |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(0)
            shift = 0
    return numbers[:-1]


def decode_image(source: str) -> np.ndarray:
    head, _, text = source.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def test_texts_of_the_page_are_those_of_the_report(folder: Path, data: dict[str, Any]) -> None:
    table = ResultTable(read_results(folder))
    head, *rows = markdown_cells(accuracy_table(table))
    assert [row[0] for row in rows] == [method["name"] for method in data["methods"]] + ["all tokens", "text only"]
    assert head[1:] == [f"{budget['label']} ({budget['note']})" for budget in data["budgets"]]
    for row, points in zip(rows, data["points"], strict=False):
        assert row[1:] == [point["values"]["accuracy"][3] for point in points]
    assert rows[-2][1].split()[0] == data["full"]["values"]["accuracy"][3].split()[0]
    section = comparison_section(table).replace("\\*", "*").split("<details>")[0]
    differences = {row[0]: row[1:] for row in markdown_cells(section)[1:]}
    assert set(differences) == set(METHODS) - {"st_simdiff"} and differences["uniform"][0].endswith(" **")
    for method, points in zip(METHODS, data["points"], strict=True):
        if method != "st_simdiff":
            assert differences[method] == [point["values"]["difference"][3] for point in points]


def test_values_agree_with_their_texts_and_with_each_other(data: dict[str, Any]) -> None:
    for values in (point["values"] for points in data["points"] for point in points):
        value, low, high, text = values["accuracy"]
        shown = [float(part) for part in re.findall(r"[\d.]+", text)]
        assert shown == pytest.approx([100 * value, 100 * low, 100 * high], abs=0.051)
        if "compressor_ms" in values:
            total = values["compressor_ms"][0] + values["prefill_ms"][0]
            assert values["total_ms"][0] == pytest.approx(total)


def test_methods_have_kinds_and_an_oracle_has_no_time(data: dict[str, Any]) -> None:
    kinds = {method["name"]: method["kind"] for method in data["methods"]}
    assert kinds["oracle"] == "oracle" and kinds["fila"] == "trained" and kinds["pool"] == "training-free"
    for method, points in zip(data["methods"], data["points"], strict=True):
        assert all(("time" in point["values"]) == (method["name"] != "oracle") for point in points)


def test_answers_and_kept_tokens_are_those_of_the_results(folder: Path, data: dict[str, Any]) -> None:
    results = {(one["compressor"], one["budget"], one["seed"]): one for one in read_results(folder)}
    budgets = {f"{100 * budget:.10g} %": budget for _, budget, _ in results}
    questions, texts = data["detail"]["questions"], data["detail"]["answer_texts"]
    assert len(data["runs"]) == len(results) - 1, "all results except that of all tokens"
    for run in data["runs"]:
        budget = budgets[data["budgets"][run["budget"]]["label"]]
        result = results[data["methods"][run["method"]]["name"], budget, run["seed"]]
        columns = result["answers"]
        assert unpack_bits(run["right"])[: result["n"]].tolist() == columns["correct"]
        for i, question in enumerate(questions):
            number = question["number"]
            assert texts[run["detail"]["said"][i]] == columns["said"][number]
            assert question["text"] == columns["question"][number] and question["answer"] == columns["answer"][number]
            video = columns["video"][number]
            assert data["detail"]["videos"][question["video"]]["name"] == f"video {video}"
            (kept,) = [one for one in result["kept"] if one["video"] == video and one["row"] in (number, None)]
            packed = run["detail"]["sets"][run["detail"]["kept"][i]]
            assert np.flatnonzero(unpack_bits(packed["mask"])).tolist() == kept["index"]
            assert packed["count"] == len(kept["index"])
            assert (packed["sizes"] is None) == (kept["size"] is None) == (result["compressor"] != "pool")


def test_evidence_and_frames_are_those_of_the_videos(data: dict[str, Any]) -> None:
    for number, shown in enumerate(data["detail"]["videos"]):
        video = RECIPE.video(number)
        expected = [[list(box) for box in question.evidence] for question in video.questions]
        boxes = [one["boxes"] for one in data["detail"]["questions"] if one["video"] == number]
        assert [[box[0] for box in one] for one in boxes] == [[box[0] for box in one] for one in expected]
        flat, expected_flat = (np.concatenate([np.array(one) for one in some if one]) for some in (boxes, expected))
        assert np.allclose(flat, expected_flat, atol=1e-4)
        assert shown["times"] == pytest.approx(video.times.tolist()) and shown["mosaic"]["shown"] == list(range(16))
        mosaic = decode_image(shown["mosaic"]["src"])
        width, height = shown["mosaic"]["tile"]
        for step, frame in enumerate(video.frames):
            top, left = step // shown["mosaic"]["columns"] * height, step % shown["mosaic"]["columns"] * width
            tile = mosaic[top : top + height, left : left + width].astype(float)
            own = np.abs(tile - frame).mean()
            others = [np.abs(tile - other).mean() for i, other in enumerate(video.frames) if abs(i - step) > 1]
            assert own < 10 and own < min(others), (number, step)


@given(st.sets(st.integers(0, 255), min_size=1), st.data())
def test_packed_tokens_can_be_unpacked(tokens: set[int], draw: st.DataObject) -> None:
    index = sorted(tokens)
    numbers = st.lists(st.integers(1, 2**40), min_size=len(index), max_size=len(index))
    size = draw.draw(st.none() | numbers)
    packed = pack_kept(index, size, GRID)
    assert np.flatnonzero(unpack_bits(packed["mask"])).tolist() == index
    assert size is None or unpack_varints(base64.b64decode(packed["sizes"])) == size


TEXTS = st.text(st.characters(codec=None)) | st.sampled_from(HOSTILE)  # including lone surrogates


@given(
    st.recursive(TEXTS | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(TEXTS, x), max_leaves=20)
)
def test_no_text_can_leave_its_script_element(data: Any) -> None:
    text = inert_json(data)
    assert json.loads(text) == data
    assert text.isascii() and not set(text) & set("<>&\u2028\x00")


def test_hostile_results_add_nothing_but_text(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "<b>&quot;{{script}}").mkdir()
    out = edit_results(fill_results(tmp_path / "<b>&quot;{{script}}"), make_hostile)
    reader, data = read_page(out)
    plain, _ = read_page(folder)
    assert reader.tags == plain.tags
    assert [text for _, text in reader.of("title")] == [f"<b>&quot;{{{{script}}}}: {data['title']} · framefold"]
    assert data["folder"] == out.name
    assert {method["name"] for method in data["methods"]} == set(HOSTILE[: len(METHODS)])
    assert data["detail"]["questions"][0]["text"] in HOSTILE


def test_policy_permits_only_the_page_s_own_style_and_script(folder: Path) -> None:
    reader, _ = read_page(folder)
    (policy,) = [attrs["content"] for attrs, _ in reader.of("meta") if "http-equiv" in attrs]
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (script,) = [text for attrs, text in reader.of("script") if "id" not in attrs]
    ((_, style),) = reader.of("style")
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    (packed,) = [text for attrs, text in reader.of("script") if attrs.get("id") == "plotly"]
    plotly = gzip.decompress(base64.b64decode(packed)).decode()
    assert plotly == get_plotlyjs()
    for name, texts in (("script-src", (script, plotly)), ("style-src", (style, ""))):
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert rules[name] == " ".join(f"'sha256-{digest}'" for digest in digests), name
    links = [attrs[name] for _, attrs in reader.tags for name in ("src", "href", "action") if name in attrs]
    assert links == ["#results"]
    assert "innerHTML" not in script and "document.write" not in script and "eval(" not in script
    addresses = set(re.findall(r"https?://[^\"'\s]+", script + style))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the namespace is not loaded"


def test_page_with_many_long_videos_stays_small(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "cells", tmp_path / "cells")
    size = write_page(ResultTable(read_results(tmp_path)), tmp_path).stat().st_size
    monkeypatch.setattr(page, "MAX_BYTES", size - 1)
    _, data = read_page(tmp_path)
    assert len(data["detail"]["videos"]) == KEPT_VIDEOS // 2
    assert {question["video"] for question in data["detail"]["questions"]} == set(range(KEPT_VIDEOS // 2))


def test_missing_kept_tokens_are_explained(tmp_path: Path) -> None:
    _, data = read_page(fill_results(tmp_path, kept_videos=0))
    assert "--drill" in data["detail"]["reason"] and "questions" not in data["detail"]
    assert data["points"][0][0]["values"]["accuracy"][3]


def test_unavailable_frames_are_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefold.evaluation.report.page_data.setting_paragraph", lambda table: "")
    original = result_settings("uniform", 0.25).data
    shards = {"kind": "shards", "shards": "/nowhere/at/all", "digest": "", "videos": 6, "frames": 16}
    cases = {
        "not those of these results": {**original, "seed": 1},
        "no videos can be generated": {"kind": "synthetic", "frames": "many"},
        "nowhere": shards,
    }
    out = fill_results(tmp_path)
    for reason, stored in cases.items():
        _, data = read_page(edit_results(out, lambda result, stored=stored: result["settings"].update(data=stored)))
        videos = data["detail"]["videos"]
        assert all(video["mosaic"] is None and reason in video["note"] for video in videos), reason
        assert data["detail"]["questions"] and data["runs"][0]["detail"]["sets"], reason


def test_commands_in_the_name_of_shards_are_not_run(tmp_path: Path) -> None:
    mark, out = tmp_path / "mark", fill_results(tmp_path / "results")
    for shards in ("pipe:touch {}", "{{pipe:touch {},x}}", "x::pipe:touch {}", "gs://x;touch {}"):
        stored = {"kind": "shards", "shards": shards.format(mark), "digest": "", "videos": VIDEOS, "frames": 16}
        _, data = read_page(edit_results(out, lambda result, stored=stored: result["settings"].update(data=stored)))
        assert not mark.exists(), shards
        assert all(video["mosaic"] is None and video["note"] for video in data["detail"]["videos"]), shards


def test_frames_are_read_from_local_shards(tmp_path: Path, shards: Path) -> None:
    tar = sorted(shards.glob("*.tar"))[0]
    raws = islice(tarfile_samples([{"url": str(tar)}]), 3)
    videos = [unpack_video(raw["__key__"], read_metadata(raw["__key__"], raw["json"]), raw["mp4"], 16) for raw in raws]
    outcome = random_outcome("uniform", 0.5, 64)
    answers, kept = [], []
    for number, sample in enumerate(videos):
        kept.append(outcome.kept[number] | {"key": sample.key})
        for question in sample.questions:
            asked = {"type": question.type, "question": question.text, "answer": question.answer}
            answers.append(outcome.answers[0] | {"video": number, "draw": number, **asked})
    named = {"kind": "shards", "shards": str(shards), "digest": "", "videos": 3, "frames": 16}
    settings = result_settings("uniform", 0.25, data=named)
    write_result(tmp_path, settings, Outcome(answers, outcome.cost, kept, 3, outcome.started))
    _, data = read_page(tmp_path)
    for sample, shown in zip(videos, data["detail"]["videos"], strict=True):
        assert not shown["note"], shown["note"]
        tile = decode_image(shown["mosaic"]["src"])[:64, :64].astype(float)
        assert np.abs(tile - sample.frames[0].numpy()).mean() < 10


def _set_token_outside_of_grid(result: dict[str, Any]) -> None:
    result["kept"][0]["index"][-1] = 10**9


def _set_recall_to_nan(result: dict[str, Any]) -> None:
    result["answers"]["recall"][0] = float("nan")


def _set_impossible_grid(result: dict[str, Any]) -> None:
    result["kept"][0]["grid"] = [16, -4, "x"]


def test_damaged_results_leave_the_old_page_and_no_other_file(tmp_path: Path) -> None:
    before = write_page(ResultTable(read_results(fill_results(tmp_path))), tmp_path).read_bytes()
    files = sorted(tmp_path.iterdir())
    originals = {file: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    for edit in (_set_token_outside_of_grid, _set_recall_to_nan, _set_impossible_grid):
        with pytest.raises(ResultsError, match="damaged"):
            write_page(ResultTable(read_results(edit_results(tmp_path, edit))), tmp_path)
        assert (tmp_path / PAGE).read_bytes() == before and sorted(tmp_path.iterdir()) == files, edit.__name__
        for file, content in originals.items():
            file.write_bytes(content)


def test_wheel_contains_exactly_the_parts_of_the_page() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "evaluation" / "report"
    packaged = {file.name for pattern in patterns["framefold.evaluation.report"] for file in folder.glob(pattern)}
    assert packaged == {"page.html", "page.css", *(f"{name}.js" for name in page.SCRIPTS)}


def test_methods_inside_the_language_model_have_their_measures_and_cells_that_were_left_out_say_why(
    tmp_path: Path,
) -> None:
    folder = inside_results(tmp_path)
    data = read_page(folder)[1]
    names = [method["name"] for method in data["methods"]]
    measures = {measure["key"]: measure for measure in data["measures"]}
    assert [key for key, one in measures.items() if one["axis"]][-3:] == ["peak_bytes", "tokens_mean", "tokens_after"]
    assert measures["tokens_entered"]["axis"] and measures["recall_left"]["group"] == measures["recall"]["group"]
    at = {name: data["points"][number][0] for number, name in enumerate(names)}
    texts = {key: at["fastv"]["values"][key][3] for key in ("tokens_entered", "tokens_mean", "tokens_after")}
    assert texts == {"tokens_entered": "257.0", "tokens_mean": "64.5", "tokens_after": "12.0"}
    assert at["fastv"]["values"]["recall_left"][3] == "25.0" and at["fastv (equal FLOPs)"]["values"]["equal_flops"]
    assert at["uniform"]["values"]["tokens_mean"][3] == "65.0", "that of all layers"
    assert data["left_out"][names.index("fastv")] == ["", "not possible: smallest is 25.4 %"]
    assert data["points"][names.index("fastv")][1] is None and not any(data["left_out"][names.index("pool")])
    assert data["left_out"][names.index("pyramid_drop")] == ["not possible", "not possible"]
    assert data["title"].startswith("6 compressors at"), "fastv counts once"
    assert data["tokens_title"].endswith("mean over the layers") and "as the mean over the layers" in data["about"]
    assert {run["method"]: run["inside"] for run in data["runs"]}[names.index("fastv")] is True


def test_without_such_methods_the_page_does_not_speak_of_layers(data: dict[str, Any]) -> None:
    keys = {measure["key"] for measure in data["measures"]}
    assert not keys & {"tokens_mean", "tokens_after", "recall_left", "equal_flops"} and "tokens_entered" in keys
    assert data["tokens_title"] == "visual tokens per video that are kept" and "layers" not in data["about"]
    assert not any(text for texts in data["left_out"] for text in texts)
