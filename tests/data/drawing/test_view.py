"""The contact sheet: nothing that matters is left out, and evidence is outlined where it is."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from framefold.__main__ import main
from framefold.data.drawing import contact_sheet as drawing
from framefold.data.drawing.contact_sheet import (
    GAP,
    HEAD,
    LABEL,
    MARGIN,
    MOST,
    ContactSheet,
    color_of,
    draw_contact_sheet,
    thinned,
)
from framefold.data.drawing.question_panel import spans
from framefold.data.drawing.view import view
from framefold.data.question import Question
from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import decode
from framefold.errors import DataError


def flat(*questions: Question, frames: int = 1, columns: int = 8) -> ContactSheet:
    """Grey frames with these questions."""
    pixels = np.full((frames, 64, 64, 3), 128, np.uint8)
    return ContactSheet("t", pixels, np.arange(frames) / 2, questions, range(frames), columns)


def asked(*boxes: tuple[int, float, float, float, float]) -> Question:
    return Question("needle", "what ?", "red", ("red", "blue"), boxes)


def drawn(sheet: ContactSheet, file: Path) -> np.ndarray:
    """(H, W, 3) pixels of a sheet, 0 to 1."""
    draw_contact_sheet(sheet, file)
    return matplotlib.image.imread(file)[..., :3]


def where(image: np.ndarray, color: str) -> np.ndarray:
    """(n, 2) places (y, x) in the area of the first tile that have a colour; its upper left corner is (0, 0)."""
    tile = image[HEAD : HEAD + 192, MARGIN : MARGIN + 192]
    return np.argwhere(np.abs(tile - np.array(to_rgb(color))).max(axis=-1) < 0.02)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list:
    """All texts of the figures that are saved."""
    texts: list = []
    save = Figure.savefig

    def noted(figure: Figure, *args: object, **options: object) -> None:
        texts.extend(text for axes in figure.axes for text in axes.texts)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    return texts


# ---- which frames ---------------------------------------------------------------------------------------------------


def test_short_videos_are_shown_whole_and_long_ones_evenly() -> None:
    assert thinned(MOST, {3}) == list(range(MOST))
    steps = np.diff(thinned(1000, set()))
    assert len(steps) == MOST - 1 and steps.sum() == 999 and np.ptp(steps) <= 1


@pytest.mark.parametrize("evidence", [{500}, set(range(100, 140)), set(range(300, 362)), set(range(0, 800, 4))])
def test_thinning_never_drops_evidence_nor_the_ends(evidence: set[int]) -> None:
    shown = thinned(1000, evidence)
    assert evidence | {0, 999} <= set(shown) and shown == sorted(set(shown))
    assert len(shown) <= max(MOST, len(evidence) + 2)


def test_evidence_in_frames_that_do_not_exist_is_an_error() -> None:
    with pytest.raises(DataError, match="frames 3 to 16 of a video with 16 frames"):
        thinned(16, {3, 16})


def test_runs_of_frames_are_written_short() -> None:
    assert spans([9, 3, 4, 5, 5]) == "3-5, 9" and spans([]) == ""


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_a_box_is_outlined_where_it_is_and_the_frame_is_seen_through_it(tmp_path: Path) -> None:
    image = drawn(flat(asked((0, 0.25, 0.5, 0.75, 1.0))), tmp_path / "a.png")
    line = where(image, color_of(0))
    assert np.abs(line.min(axis=0) - (48, 96)).max() <= 3 and np.abs(line.max(axis=0) - (144, 192)).max() <= 3
    assert np.allclose(image[HEAD + 96, MARGIN + 144], 128 / 255, atol=0.01)


def test_a_box_that_leaves_the_frame_is_cut_off_at_its_edge(tmp_path: Path) -> None:
    image = drawn(flat(asked((0, -0.2, 0.8, 0.3, 1.4), (0, 1.2, 0.0, 1.5, 0.5))), tmp_path / "a.png")
    line = where(image, color_of(0))
    assert line[:, 0].max() <= 0.3 * 192 and line[:, 1].min() >= 0.8 * 192  # and nothing of the box outside it
    edge = line[line[:, 1] > 185]
    assert np.ptp(edge[:, 0]) > 40  # the side at the edge is drawn
    beside = image[:, MARGIN + 193 : MARGIN + 192 + GAP]
    assert (beside == 1).all()


def test_questions_that_share_a_box_take_turns_along_its_line(tmp_path: Path) -> None:
    box = (0, 0.2, 0.2, 0.8, 0.8)
    image = drawn(flat(*[asked(box)] * 5), tmp_path / "a.png")
    shares = [len(where(image, color_of(n))) for n in range(5)]
    assert min(shares) > 0.5 * max(shares) > 0


def test_frames_stand_in_rows_and_keep_their_pixels(tmp_path: Path) -> None:
    sheet = flat(frames=5, columns=2)
    sheet.frames[:] = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    image = drawn(sheet, tmp_path / "a.png")
    for frame in range(5):
        top, left = HEAD + frame // 2 * (192 + LABEL + GAP), MARGIN + frame % 2 * (192 + GAP)
        assert np.allclose(image[top + 1 : top + 191, left + 1 : left + 191], frame * 50 / 255, atol=0.01)


@pytest.mark.parametrize("frames", [3, 16, 64])
@pytest.mark.parametrize("columns", [2, 8, 30])
def test_questions_keep_clear_of_the_frames_and_of_each_other(
    frames: int, columns: int, tmp_path: Path, words: list
) -> None:
    draw_contact_sheet(flat(*[asked((0, 0, 0, 1, 1))] * 12, frames=frames, columns=columns), tmp_path / "a.png")
    axes = words[0].axes
    sheet = axes.get_window_extent()
    tiles = [image.get_window_extent() for image in axes.images]
    texts = [text.get_window_extent() for text in words if text.get_text() in ("what ?", "needle", "red", "blue")]
    assert len(tiles) == frames and len(texts) == 48
    for i, box in enumerate(texts):
        assert sheet.x0 <= box.x0 and box.x1 <= sheet.x1 and sheet.y0 <= box.y0 and box.y1 <= sheet.y1
        assert not any(box.overlaps(other) for other in [*tiles, *texts[:i]])


@pytest.mark.parametrize(("size", "tile"), [((64, 64), (192, 192)), ((90, 160), (90, 160)), ((720, 1280), (180, 320))])
def test_small_frames_grow_by_a_whole_factor_and_large_ones_shrink(size: tuple, tile: tuple) -> None:
    assert ContactSheet("t", np.zeros((1, *size, 3), np.uint8), np.zeros(1), (), [0], 1).tile == tile


def test_every_question_stands_there_with_its_choices_and_only_the_answer_filled(tmp_path: Path, words: list) -> None:
    view(str(tmp_path / "a.png"), index=4, difficulty="hard")
    video = generate(4, split="test", difficulty="hard")
    texts = [text.get_text() for text in words]
    for number, question in enumerate(video.questions):
        assert question.type in texts and question.text in texts and str(number + 1) in texts
        assert set(question.choices) <= set(texts)
    filled = [text.get_text() for text in words if text.get_color() == "white" and text.get_weight() == "bold"]
    answers = [text for text in filled if not text.isdigit()]
    assert answers == [question.answer for question in video.questions]
    assert all(f"#{frame}  {frame / 2:g} s" in texts for frame in range(64))


def test_a_frame_of_evidence_names_the_questions_it_belongs_to(tmp_path: Path, words: list) -> None:
    draw_contact_sheet(
        flat(asked((1, 0, 0, 1, 1)), asked((1, 0, 0, 1, 1), (2, 0, 0, 1, 1)), frames=3), tmp_path / "a.png"
    )
    bold = {text.get_text() for text in words if text.get_text().startswith("#") and text.get_weight() == "bold"}
    assert bold == {"#1  0.5 s", "#2  1 s"}
    assert sorted(text.get_text() for text in words if text.get_fontsize() == 6.5) == ["1", "2", "2"]


def test_long_texts_are_wrapped_and_an_answer_that_is_no_choice_is_shown(tmp_path: Path, words: list) -> None:
    question = Question("t", "word " * 60, "$odd", tuple(f"choice{i}" for i in range(30)), ())
    draw_contact_sheet(flat(question), tmp_path / "a.png")
    axes = words[0].axes
    right = max(text.get_window_extent().x1 for text in words)
    assert right <= axes.get_window_extent().x1 - MARGIN / 2
    assert "$odd" in [text.get_text() for text in words]
    assert sum(text.get_text().count("word") for text in words) == 60


# ---- the verb -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 9, 21])
def test_a_stored_video_is_found_by_its_number_across_shards(
    index: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr(
        drawing, "draw_contact_sheet", lambda sheet, file: (sheets.append(sheet), file.write_bytes(b"x"))
    )
    view(str(tmp_path / "a.png"), index=index, shards=str(shards))
    video = generate(index, seed=5, frames=len(sheets[0].frames))
    assert sheets[0].title.startswith(f"train-5-{index:08d} ")
    assert sheets[0].questions == video.questions
    assert np.abs(sheets[0].frames.astype(int) - video.frames).mean() < 6  # the codec takes most of the noise away


def test_a_shard_that_is_cut_off_is_one_clear_error(shards: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "shards"
    damaged.mkdir()
    for file in shards.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    first = sorted(damaged.glob("*.tar"))[0]
    first.write_bytes(first.read_bytes()[:20000])
    with pytest.raises(DataError, match="damaged; 'framefold shards check"):
        view(str(tmp_path / "a.png"), index=7, shards=str(damaged))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--index", "-1"], "must not be negative"),
        (["--columns", "0"], "columns must be between"),
        (["--frames", "3"], "frames must be"),
        (["--split", "dev"], "train, val, test"),
        (["--difficulty", "medium"], "easy or hard"),
        (["--style", "odd"], "style must be"),
        (["--shards", "nowhere"], "no shard folder nowhere"),
        (["--shards", "{empty}"], "holds no index.json"),
        (["--shards", "{shards}", "--index", "22"], "no video 22 in"),
        (["--shards", "{shards}", "--index", "-1"], "it holds 0 to 21"),
        (["--out", "a.jpg"], "ends in .png"),
        (["--out", "{empty}/folder.png"], "cannot write"),
        (["--out", "{empty}/folder.png/file/a.png"], "cannot write"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_leaves_nothing(
    args: list[str], text: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    if "--out" in args:
        (empty / "folder.png").mkdir() if args[1].endswith("folder.png") else (empty / "folder.png").write_text("")
    before = sorted(tmp_path.rglob("*"))
    words = [word.format(empty=empty, shards=shards) for word in args]
    assert main(["view", *([] if "--out" in args else ["--out", "new/a.png"]), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and text in error, error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_older_picture_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"older")

    def full(sheet: ContactSheet, beside: Path) -> None:
        beside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(drawing, "draw_contact_sheet", full)
    with pytest.raises(OSError, match=r"No space left.*a\.png"):
        view(str(file))
    assert file.read_bytes() == b"older" and list(tmp_path.iterdir()) == [file]


def test_a_video_may_be_written_as_a_film_with_its_questions_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "framefold.data.drawing.contact_sheet", None)  # needs no matplotlib
    made = generate(3, split="test", frames=16)
    view(str(tmp_path / "new" / "a.mp4"), index=3, frames=16)
    frames, times = decode(tmp_path / "new" / "a.mp4")
    assert np.abs(frames.astype(int) - made.frames).mean() < 4 and np.allclose(times, made.times, atol=1e-3)
    said = capsys.readouterr().out
    assert all(f"{question.text} {question.answer}\n" in said for question in made.questions)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    for name in list(sys.modules):
        if name.startswith("matplotlib.") or name in (
            "framefold.data.drawing.contact_sheet",
            "framefold.data.drawing.question_panel",
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["view", "--out", str(tmp_path / "a.png")]) == 2
    assert "pip install 'framefold[report]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_same_video_gives_the_same_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        assert main(["view", "--out", str(tmp_path / "new" / name), "--frames", "16", "--difficulty", "hard"]) == 0
    a, b = (tmp_path / "new" / name for name in ("a.png", "b.png"))
    assert a.read_bytes() == b.read_bytes() and a.read_bytes().startswith(b"\x89PNG")
    assert "16 of 16 frames" in capsys.readouterr().out
