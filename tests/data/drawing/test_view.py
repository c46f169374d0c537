"""The contact sheet: frames with evidence are always shown, and evidence is outlined where it is."""

from __future__ import annotations

import errno
import importlib
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from framefold.__main__ import main
from framefold.data.drawing import contact_sheet as module
from framefold.data.drawing.contact_sheet import (
    GAP,
    HEADER,
    LABEL,
    MARGIN,
    ContactSheet,
    question_color,
    render_contact_sheet,
)
from framefold.data.drawing.frame_selection import MAX_FRAMES, select_frames
from framefold.data.drawing.question_panel import format_ranges
from framefold.data.drawing.view import view
from framefold.data.question import Question
from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import decode_video
from framefold.errors import DataError


def gray(*questions: Question, frames: int = 1, columns: int = 8) -> ContactSheet:
    """A sheet of gray frames with some questions."""
    pixels = np.full((frames, 64, 64, 3), 128, np.uint8)
    return ContactSheet("t", pixels, np.arange(frames) / 2, questions, range(frames), columns)


def question_about(*boxes: tuple[int, float, float, float, float]) -> Question:
    return Question("needle", "what ?", "red", ("red", "blue"), boxes)


def rendered(sheet: ContactSheet, file: Path) -> np.ndarray:
    """Pixels of a sheet, (H, W, 3), 0 to 1."""
    render_contact_sheet(sheet, file)
    return matplotlib.image.imread(file)[..., :3]


def positions_of(image: np.ndarray, color: str) -> np.ndarray:
    """(n, 2) positions (y, x) of a colour in the area of the first tile, relative to its upper left corner."""
    tile = image[HEADER : HEADER + 192, MARGIN : MARGIN + 192]
    return np.argwhere(np.abs(tile - np.array(to_rgb(color))).max(axis=-1) < 0.02)


class Sheets:
    """Contents of the last sheet that would have been saved."""

    def __init__(self) -> None:
        self.axes: Axes

    @property
    def texts(self) -> list[Text]:
        return self.axes.texts


@pytest.fixture
def sheet(monkeypatch: pytest.MonkeyPatch) -> Sheets:
    """Sheets are laid out as usual, but not saved, which takes most of the time."""
    found = Sheets()
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **more: setattr(found, "axes", figure.axes[0]))
    return found


# ---- choice of frames -----------------------------------------------------------------------------------------------


def test_short_videos_are_shown_completely_and_long_ones_evenly() -> None:
    assert select_frames(MAX_FRAMES, {3}) == list(range(MAX_FRAMES))
    steps = np.diff(select_frames(1000, set()))
    assert len(steps) == MAX_FRAMES - 1 and steps.sum() == 999 and np.ptp(steps) <= 1


def test_frames_with_evidence_and_both_ends_are_always_selected() -> None:
    for evidence in ({500}, set(range(100, 140)), set(range(300, 362)), set(range(0, 800, 4))):
        shown = select_frames(1000, evidence)
        assert evidence | {0, 999} <= set(shown) and shown == sorted(set(shown)), evidence
        assert len(shown) <= max(MAX_FRAMES, len(evidence) + 2), evidence


def test_evidence_in_missing_frames_is_an_error() -> None:
    with pytest.raises(DataError, match="frames 3 to 16 of a video with 16 frames"):
        select_frames(16, {3, 16})


def test_consecutive_frames_are_written_as_ranges() -> None:
    assert format_ranges([9, 3, 4, 5, 5]) == "3-5, 9" and format_ranges([]) == ""


# ---- rendering ------------------------------------------------------------------------------------------------------


def test_box_is_outlined_and_the_frame_is_visible_inside(tmp_path: Path) -> None:
    image = rendered(gray(question_about((0, 0.25, 0.5, 0.75, 1.0))), tmp_path / "a.png")
    line = positions_of(image, question_color(0))
    assert np.abs(line.min(axis=0) - (48, 96)).max() <= 3 and np.abs(line.max(axis=0) - (144, 192)).max() <= 3
    assert np.allclose(image[HEADER + 96, MARGIN + 144], 128 / 255, atol=0.01)


def test_box_beyond_the_frame_is_clipped_at_its_edge(tmp_path: Path) -> None:
    question = question_about((0, -0.2, 0.8, 0.3, 1.4), (0, 1.2, 0.0, 1.5, 0.5))
    image = rendered(gray(question), tmp_path / "a.png")
    line = positions_of(image, question_color(0))
    assert line[:, 0].max() <= 0.3 * 192 and line[:, 1].min() >= 0.8 * 192  # the box outside the frame is not rendered
    edge = line[line[:, 1] > 185]
    assert np.ptp(edge[:, 0]) > 40  # the side at the edge is rendered
    gap = image[:, MARGIN + 193 : MARGIN + 192 + GAP]
    assert (gap == 1).all()


def test_colors_alternate_on_a_box_of_several_questions(tmp_path: Path) -> None:
    box = (0, 0.2, 0.2, 0.8, 0.8)
    image = rendered(gray(*[question_about(box)] * 5), tmp_path / "a.png")
    counts = [len(positions_of(image, question_color(n))) for n in range(5)]
    assert min(counts) > 0.5 * max(counts) > 0


def test_frames_are_in_rows_and_keep_their_pixels(tmp_path: Path) -> None:
    contents = gray(frames=5, columns=2)
    contents.frames[:] = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    image = rendered(contents, tmp_path / "a.png")
    for frame in range(5):
        top, left = HEADER + frame // 2 * (192 + LABEL + GAP), MARGIN + frame % 2 * (192 + GAP)
        assert np.allclose(image[top + 1 : top + 191, left + 1 : left + 191], frame * 50 / 255, atol=0.01)


def test_questions_do_not_overlap_frames_or_each_other(tmp_path: Path, sheet: Sheets) -> None:
    right = below = 0
    for frames, columns in [(3, 2), (3, 30), (16, 8), (64, 2), (64, 30)]:  # few or many rows, narrow or wide
        questions = [question_about((0, 0, 0, 1, 1))] * 12
        render_contact_sheet(gray(*questions, frames=frames, columns=columns), tmp_path / "a.png")
        area = sheet.axes.get_window_extent()
        tiles = [image.get_window_extent() for image in sheet.axes.images]
        labels = ("what ?", "needle", "red", "blue")
        texts = [text.get_window_extent() for text in sheet.texts if text.get_text() in labels]
        assert len(tiles) == frames and len(texts) == 48
        for i, box in enumerate(texts):
            assert area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1
            assert not any(box.overlaps(other) for other in [*tiles, *texts[:i]]), (frames, columns)
        lowest = min(tile.y0 for tile in tiles)
        below += all(box.y1 < lowest for box in texts)
        right += any(box.y1 > lowest for box in texts)
    assert below and right


def test_small_frames_are_enlarged_by_an_integer_and_large_ones_reduced() -> None:
    for size, tile in [((64, 64), (192, 192)), ((90, 160), (90, 160)), ((720, 1280), (180, 320))]:
        assert ContactSheet("t", np.zeros((1, *size, 3), np.uint8), np.zeros(1), (), [0], 1).tile == tile


def test_every_question_is_listed_with_its_choices_and_only_the_answer_filled(tmp_path: Path, sheet: Sheets) -> None:
    view(str(tmp_path / "a.png"), index=4, difficulty="hard")
    video = generate(4, split="test", difficulty="hard")
    texts = [text.get_text() for text in sheet.texts]
    for number, question in enumerate(video.questions):
        assert question.type in texts and question.text in texts and str(number + 1) in texts
        assert set(question.choices) <= set(texts)
    filled = [text.get_text() for text in sheet.texts if text.get_color() == "white" and text.get_weight() == "bold"]
    answers = [text for text in filled if not text.isdigit()]
    assert answers == [question.answer for question in video.questions]
    assert all(f"#{frame}  {frame / 2:g} s" in texts for frame in range(64))


def test_frame_with_evidence_names_its_questions(tmp_path: Path, sheet: Sheets) -> None:
    questions = question_about((1, 0, 0, 1, 1)), question_about((1, 0, 0, 1, 1), (2, 0, 0, 1, 1))
    render_contact_sheet(gray(*questions, frames=3), tmp_path / "a.png")
    bold = {text.get_text() for text in sheet.texts if text.get_text()[0] == "#" and text.get_weight() == "bold"}
    assert bold == {"#1  0.5 s", "#2  1 s"}
    assert sorted(text.get_text() for text in sheet.texts if text.get_fontsize() == 6.5) == ["1", "2", "2"]


def test_long_texts_are_wrapped_and_an_answer_outside_the_choices_is_shown(tmp_path: Path, sheet: Sheets) -> None:
    question = Question("t", "word " * 60, "$odd", tuple(f"choice{i}" for i in range(30)), ())
    render_contact_sheet(gray(question), tmp_path / "a.png")
    right = max(text.get_window_extent().x1 for text in sheet.texts)
    assert right <= sheet.axes.get_window_extent().x1 - MARGIN / 2
    assert "$odd" in [text.get_text() for text in sheet.texts]
    assert sum(text.get_text().count("word") for text in sheet.texts) == 60


# ---- the verb -------------------------------------------------------------------------------------------------------


def test_stored_video_is_found_by_its_number_across_shards(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets: list[ContactSheet] = []
    monkeypatch.setattr(module, "render_contact_sheet", lambda sheet, file: sheets.append(sheet))
    for index in (0, 9, 21):
        view(str(tmp_path / "a.png"), index=index, shards=str(shards))
        video = generate(index, seed=5, frames=len(sheets[-1].frames))
        assert sheets[-1].title.startswith(f"train-5-{index:08d} ")
        assert sheets[-1].questions == video.questions
        assert np.abs(sheets[-1].frames.astype(int) - video.frames).mean() < 6  # the codec removes most of the noise


def test_truncated_shard_is_one_clear_error(shards: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "shards"
    damaged.mkdir()
    for file in shards.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    first = sorted(damaged.glob("*.tar"))[0]
    first.write_bytes(first.read_bytes()[:20000])
    with pytest.raises(DataError, match="damaged; 'framefold shards check"):
        view(str(tmp_path / "a.png"), index=7, shards=str(damaged))


REFUSED = [
    (["--index", "-1"], "must not be negative"),
    (["--columns", "0"], "columns must be between"),
    (["--frames", "3"], "frames must be"),
    (["--split", "dev"], "train, val, test"),
    (["--difficulty", "medium"], "easy or hard"),
    (["--style", "odd"], "style must be"),
    (["--shards", "nowhere"], "no shard folder nowhere"),
    (["--shards", "{empty}"], "has no index.json"),
    (["--shards", "{shards}", "--index", "22"], "no video 22 in"),
    (["--shards", "{shards}", "--index", "-1"], "it has videos 0 to 21"),
    (["--out", "a.jpg"], "ends in .png"),
    (["--out", "{folder}"], "is a folder"),
    (["--out", "{file}/a.png"], "is not a writable folder"),
    (["--out", "{file}/new/a.mp4"], "is not a writable folder"),
]


def test_refused_calls_print_one_line_and_write_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"empty": tmp_path / "empty", "folder": tmp_path / "folder.png", "file": tmp_path / "file"}
    places["empty"].mkdir()
    places["folder"].mkdir()
    places["file"].write_text("")
    places["shards"] = shards
    before = sorted(tmp_path.rglob("*"))
    for args, text in REFUSED:
        words = [word.format(**places) for word in args]
        assert main(["view", *([] if "--out" in args else ["--out", "new/a.png"]), *words]) == 2, args
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and text in error, error
        assert sorted(tmp_path.rglob("*")) == before, args


def test_full_disk_leaves_the_previous_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"previous")

    def full(sheet: ContactSheet, temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "render_contact_sheet", full)
    with pytest.raises(OSError, match=r"No space left.*a\.png"):
        view(str(file))
    assert file.read_bytes() == b"previous" and list(tmp_path.iterdir()) == [file]


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith(("matplotlib.", "framefold.data.drawing.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_video_file_and_choice_of_frames_need_no_matplotlib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without_matplotlib: None
) -> None:
    importlib.import_module("framefold.data.drawing.frame_selection")
    fresh = importlib.import_module("framefold.data.drawing.view")
    video = generate(3, split="test", frames=16)
    fresh.view(str(tmp_path / "new" / "a.mp4"), index=3, frames=16)
    frames, times = decode_video(tmp_path / "new" / "a.mp4")
    assert np.abs(frames.astype(int) - video.frames).mean() < 4 and np.allclose(times, video.times, atol=1e-3)
    printed = capsys.readouterr().out
    assert all(f"{question.text} {question.answer}\n" in printed for question in video.questions)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_missing_matplotlib_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without_matplotlib: None
) -> None:
    assert main(["view", "--out", str(tmp_path / "a.png")]) == 2
    assert "[report]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_same_video_gives_the_same_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        assert main(["view", "--out", str(tmp_path / "new" / name), "--frames", "16", "--difficulty", "hard"]) == 0
    a, b = (tmp_path / "new" / name for name in ("a.png", "b.png"))
    assert a.read_bytes() == b.read_bytes() and a.read_bytes().startswith(b"\x89PNG")
    assert "16 of 16 frames" in capsys.readouterr().out
