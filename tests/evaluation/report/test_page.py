"""The page of an ablation: it says what the tables say, shows what was kept, and trusts no text."""

import base64
import hashlib
import io
import json
import re
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import tarfile_samples

from framefold.data.shards.sample import read_metadata, unpack_video
from framefold.errors import ResultsError
from framefold.evaluation.report import page
from framefold.evaluation.report.markdown_tables import accuracy_table, comparison_section
from framefold.evaluation.report.page import PAGE, inert_json, write_page
from framefold.evaluation.report.page_questions import pack_kept
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.result_files import read_results, write_result
from tests.support.pages.results_folders import DRILL, GRID, RECIPE, ROWS, VIDEOS, change, fill, outcome, settings
from tests.support.paths import ROOT

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "<!--",
    "]]>&lt;b&gt;{{script}}{{data}}",
    "'; window.pwned = 1; '",
    "\u2028\u2029\u202e\ud800 \x00 \U0001f3ac",
    "${window.pwned = 1}` \\u003c/script\\u003e \\",
    "__proto__",
]


class Reader(HTMLParser):
    """The tags of a page, and the text in its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.within = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self.within = True

    def handle_endtag(self, tag: str) -> None:
        self.within = False

    def handle_data(self, data: str) -> None:
        if self.within:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, text) for (name, attrs), text in zip(self.tags, self.texts, strict=True) if name == tag]


def read(out: Path) -> tuple[Reader, dict[str, Any]]:
    """Write the page of a folder; its parts, and the data in it."""
    reader = Reader(write_page(ResultTable(read_results(out)), out).read_text())
    (data,) = [text for attrs, text in reader.of("script") if attrs.get("id") == "data"]
    return reader, json.loads(data)


def markdown(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its rule."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def data(folder: Path) -> dict[str, Any]:
    return read(folder)[1]


def test_the_numbers_are_those_of_the_tables(folder: Path, data: dict[str, Any]) -> None:
    results = ResultTable(read_results(folder))
    head, *rows = markdown(accuracy_table(results))
    assert [row[0] for row in rows] == [row["name"] for row in data["methods"]] + ["all tokens"]
    assert head[1:] == [f"{one['label']} ({one['note']})" for one in data["budgets"]]
    for row, points in zip(rows, data["points"], strict=False):
        assert row[1:] == [point["values"]["accuracy"][3] for point in points]
    assert rows[-1][1].split()[0] == data["full"]["values"]["accuracy"][3].split()[0]
    section = comparison_section(results).replace("\\*", "*").split("<details>")[0]
    differences = {row[0]: row[1:] for row in markdown(section)[1:]}
    assert set(differences) == set(ROWS) - {"st_simdiff"} and differences["uniform"][0].endswith(" **")
    for name, points in zip(ROWS, data["points"], strict=True):
        if name != "st_simdiff":
            assert differences[name] == [point["values"]["difference"][3] for point in points]


def test_values_and_intervals_are_those_of_their_texts(data: dict[str, Any]) -> None:
    for point in (point for points in data["points"] for point in points):
        value, low, high, text = point["values"]["accuracy"]
        shown = [float(part) for part in re.findall(r"[\d.]+", text)]
        assert shown == pytest.approx([100 * value, 100 * low, 100 * high], abs=0.051)
        assert (
            point["values"]["total_ms"][0]
            == pytest.approx(point["values"]["compressor_ms"][0] + point["values"]["prefill_ms"][0])
            if "compressor_ms" in point["values"]
            else point["values"]["prefill_ms"]
        )


def test_an_oracle_has_no_time_of_its_own(data: dict[str, Any]) -> None:
    kinds = {row["name"]: row["kind"] for row in data["methods"]}
    assert kinds["oracle"] == "oracle" and kinds["fila"] == "trained" and kinds["pool"] == "training-free"
    for row, points in zip(data["methods"], data["points"], strict=True):
        assert all(("time" in point["values"]) == (row["name"] != "oracle") for point in points)


def test_what_was_kept_and_answered_is_that_of_the_cells(folder: Path, data: dict[str, Any]) -> None:
    cells = {(c["compressor"], c["budget"], c["seed"]): c for c in read_results(folder)}
    budgets = {f"{100 * budget:.10g} %": budget for _, budget, _ in cells}
    questions, words = data["detail"]["questions"], data["detail"]["answer_texts"]
    assert len(data["runs"]) == len(cells) - 1, "all but all tokens"
    for run in data["runs"]:
        budget = budgets[data["budgets"][run["budget"]]["label"]]
        cell = cells[data["methods"][run["method"]]["name"], budget, run["seed"]]
        columns = cell["answers"]
        assert bits(run["right"])[: cell["n"]].tolist() == columns["correct"]
        for number, question in enumerate(questions):
            place = question["number"]
            assert words[run["detail"]["said"][number]] == columns["said"][place]
            assert question["text"] == columns["question"][place] and question["answer"] == columns["answer"][place]
            video = columns["video"][place]
            assert data["detail"]["videos"][question["video"]]["name"] == f"video {video}"
            (kept,) = [k for k in cell["kept"] if k["video"] == video and k["row"] in (place, None)]
            packed = run["detail"]["sets"][run["detail"]["kept"][number]]
            assert np.flatnonzero(bits(packed["mask"])).tolist() == kept["index"] and packed["count"] == len(
                kept["index"]
            )
            assert (packed["sizes"] is None) == (kept["size"] is None) == (cell["compressor"] != "pool")


def test_evidence_and_frames_are_those_of_the_videos(data: dict[str, Any]) -> None:
    for number, shown in enumerate(data["detail"]["videos"]):
        video = RECIPE.video(number)
        boxes = [[list(box) for box in question.evidence] for question in video.questions]
        mine = [one["boxes"] for one in data["detail"]["questions"] if one["video"] == number]
        assert [[b[0] for b in one] for one in mine] == [[b[0] for b in one] for one in boxes]
        assert np.allclose(
            np.concatenate([np.array(b) for b in mine if b]), np.concatenate([b for b in boxes if b]), atol=1e-4
        )
        assert shown["times"] == pytest.approx(video.times.tolist()) and shown["mosaic"]["shown"] == list(range(16))
        sheet = picture(shown["mosaic"]["src"])
        wide, high = shown["mosaic"]["tile"]
        for step, frame in enumerate(video.frames):
            top, left = step // shown["mosaic"]["columns"] * high, step % shown["mosaic"]["columns"] * wide
            tile = sheet[top : top + high, left : left + wide].astype(float)
            own = np.abs(tile - frame).mean()
            others = [np.abs(tile - other).mean() for place, other in enumerate(video.frames) if abs(place - step) > 1]
            assert own < 10 and own < min(others), (number, step)


@given(st.sets(st.integers(0, 255), min_size=1), st.data())
def test_what_was_kept_survives_packing(places: set[int], draw: st.DataObject) -> None:
    index = sorted(places)
    numbers = st.lists(st.integers(1, 2**40), min_size=len(index), max_size=len(index))
    size = draw.draw(st.none() | numbers)
    packed = pack_kept(index, size, GRID)
    assert np.flatnonzero(bits(packed["mask"])).tolist() == index
    assert size is None or varints(base64.b64decode(packed["sizes"])) == size


TEXTS = st.text(st.characters(codec=None)) | st.sampled_from(HOSTILE)  # half surrogates too


@given(
    st.recursive(TEXTS | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(TEXTS, x), max_leaves=20)
)
def test_no_text_leaves_its_script_element(data: Any) -> None:
    text = inert_json(data)
    assert json.loads(text) == data
    assert text.isascii() and not set(text) & set("<>&\u2028\x00")


def hostile(cell: dict[str, Any]) -> None:
    """Somebody else's results, in which nothing is what it should be."""
    names = dict(zip(ROWS, HOSTILE, strict=False)) | {"identity": "identity"}
    cell["compressor"] = cell["settings"]["compressor"] = names[cell["compressor"]]
    cell["settings"]["host"] = cell["settings"]["host_weights"] = HOSTILE[0]
    cell["settings"]["params"] = {HOSTILE[1]: HOSTILE[2]} if cell["settings"]["adapter"] is None else {}
    cell["versions"] = dict(zip(HOSTILE, reversed(HOSTILE), strict=True))
    cell["git"] = {"commit": HOSTILE[0], "dirty": HOSTILE[5]}
    cell["machine"] |= {"processor": HOSTILE[1]}
    for name in ("question", "answer", "said", "type"):
        cell["answers"][name] = [HOSTILE[hash_of(text) % len(HOSTILE)] for text in cell["answers"][name]]


def hash_of(text: str) -> int:
    return sum(text.encode())


def test_hostile_results_add_nothing_to_the_page_but_text(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "<b>&quot;{{script}}").mkdir()
    out = change(fill(tmp_path / "<b>&quot;{{script}}"), hostile)
    reader, data = read(out)
    plain, _ = read(folder)
    assert reader.tags == plain.tags
    assert [text for _, text in reader.of("title")] == ["<b>&quot;{{script}} · framefold"] and data["title"] == out.name
    assert {row["name"] for row in data["methods"]} == set(HOSTILE[: len(ROWS)])
    assert data["detail"]["questions"][0]["text"] in HOSTILE


def test_only_its_own_style_and_script_may_run_and_nothing_is_loaded(folder: Path) -> None:
    reader, _ = read(folder)
    (policy,) = [attrs["content"] for attrs, _ in reader.of("meta") if "http-equiv" in attrs]
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (script,) = [text for attrs, text in reader.of("script") if "id" not in attrs]
    ((_, style),) = reader.of("style")
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for name, text in (("script-src", script), ("style-src", style)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    links = [attrs[name] for _, attrs in reader.tags for name in ("src", "href", "action") if name in attrs]
    assert links == ["#results"]
    assert "innerHTML" not in script and "document.write" not in script and "eval(" not in script
    assert set(re.findall(r"https?://[^\"'\s]+", script + style)) == {"http://www.w3.org/2000/svg"}, (
        "a name, not an address"
    )


def test_a_page_of_many_long_videos_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fill(tmp_path)
    whole = write_page(ResultTable(read_results(out)), out).stat().st_size
    monkeypatch.setattr(page, "MAX_BYTES", whole - 1)
    _, data = read(out)
    assert len(data["detail"]["videos"]) == DRILL // 2
    assert {question["video"] for question in data["detail"]["questions"]} == set(range(DRILL // 2))


def test_results_without_what_was_kept_say_so(tmp_path: Path) -> None:
    _, data = read(fill(tmp_path, drill=0))
    assert "--drill" in data["detail"]["reason"] and "questions" not in data["detail"]
    assert data["points"][0][0]["values"]["accuracy"][3]


def _other_videos(cell: dict[str, Any]) -> None:
    cell["settings"]["data"]["seed"] = 1


def _no_videos(cell: dict[str, Any]) -> None:
    cell["settings"]["data"] = {"kind": "synthetic", "frames": "many"}


def _gone(cell: dict[str, Any]) -> None:
    cell["settings"]["data"] = {"kind": "shards", "shards": "/nowhere/at/all", "digest": "", "videos": 6, "frames": 16}


@pytest.mark.parametrize(
    "edit, text", [(_other_videos, "not those"), (_no_videos, "no videos can be generated"), (_gone, "nowhere")]
)
def test_frames_that_cannot_be_had_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], None], text: str
) -> None:
    monkeypatch.setattr("framefold.evaluation.report.page_data.setting_paragraph", lambda table: "")
    _, data = read(change(fill(tmp_path), edit))
    assert all(video["mosaic"] is None and text in video["note"] for video in data["detail"]["videos"])
    assert data["detail"]["questions"] and data["runs"][0]["detail"]["sets"]


@pytest.mark.parametrize("shards", ["pipe:touch {}", "{{pipe:touch {},x}}", "x::pipe:touch {}", "gs://x;touch {}"])
def test_no_command_out_of_results_is_run(tmp_path: Path, shards: str) -> None:
    mark = tmp_path / "mark"
    named = {"kind": "shards", "shards": shards.format(mark), "digest": "", "videos": VIDEOS, "frames": 16}
    _, data = read(change(fill(tmp_path), lambda cell: cell["settings"].update(data=named)))
    assert not mark.exists()
    assert all(video["mosaic"] is None and video["note"] for video in data["detail"]["videos"])


def test_frames_of_shards_are_read_from_them(tmp_path: Path, shards: Path) -> None:
    tar = sorted(shards.glob("*.tar"))[0]
    raws = islice(tarfile_samples([{"url": str(tar)}]), 3)
    videos = [unpack_video(raw["__key__"], read_metadata(raw["__key__"], raw["json"]), raw["mp4"], 16) for raw in raws]
    one = outcome("uniform", 0.5, 64)
    rows, kept = [], []
    for number, sample in enumerate(videos):
        kept.append(one.kept[number] | {"key": sample.key})
        rows += [
            one.answers[0] | {"video": number, "draw": number, "type": q.type, "question": q.text, "answer": q.answer}
            for q in sample.questions
        ]
    named = {"kind": "shards", "shards": str(shards), "digest": "", "videos": 3, "frames": 16}
    write_result(tmp_path, settings("uniform", 0.25, data=named), type(one)(rows, one.cost, kept, 3, one.started))
    _, data = read(tmp_path)
    for sample, shown in zip(videos, data["detail"]["videos"], strict=True):
        assert not shown["note"], shown["note"]
        tile = picture(shown["mosaic"]["src"])[:64, :64].astype(float)
        assert np.abs(tile - sample.frames[0].numpy()).mean() < 10


def _outside(cell: dict[str, Any]) -> None:
    cell["kept"][0]["index"][-1] = 10**9


def _no_number(cell: dict[str, Any]) -> None:
    cell["answers"]["recall"][0] = float("nan")


def _no_grid(cell: dict[str, Any]) -> None:
    cell["kept"][0]["grid"] = [16, -4, "x"]


@pytest.mark.parametrize("edit", [_outside, _no_number, _no_grid])
def test_damaged_results_leave_the_old_page_and_no_other_file(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    before = write_page(ResultTable(read_results(fill(tmp_path))), tmp_path).read_bytes()
    files = sorted(tmp_path.iterdir())
    with pytest.raises(ResultsError, match="uniform-b0.1-s0|damaged"):
        write_page(ResultTable(read_results(change(tmp_path, edit))), tmp_path)
    assert (tmp_path / PAGE).read_bytes() == before and sorted(tmp_path.iterdir()) == files


def test_the_wheel_holds_all_that_the_page_is_made_of() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "evaluation" / "report"
    packaged = {file.name for pattern in patterns["framefold.evaluation.report"] for file in folder.glob(pattern)}
    assert packaged == {"page.html", "page.css", *(f"{name}.js" for name in page.SCRIPTS)}


def bits(text: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool)


def varints(stream: bytes) -> list[int]:
    out, at = [], 0
    while at < len(stream):
        size, shift = 0, 0
        while True:
            size |= (stream[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if stream[at - 1] < 128:
                break
        out.append(size)
    return out


def picture(source: str) -> np.ndarray:
    head, _, text = source.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
