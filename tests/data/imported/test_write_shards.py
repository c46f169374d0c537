"""``framefold shards import``: every dialect, damage by name, resumable runs, sub-sampling, bounded memory."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framefold.__main__ import main
from framefold.data.imported import pack as packing
from framefold.data.imported import write_shards as module
from framefold.data.imported.dialects.damage import DAMAGE
from framefold.data.imported.write_shards import import_shards
from framefold.data.question import FollowUp
from framefold.data.shards.check import check_shards
from framefold.data.shards.sample import VideoSample, unpack_sample
from framefold.data.shards.sources import read_samples
from framefold.errors import DataError
from tests.support.annotated_files import FPS, SECONDS, chat, messages, write_rows, write_videos
from tests.support.coloured_clips import number_of
from tests.support.forked_command import ForkedCommand
from tests.support.limits import HANG
from tests.support.paths import ROOT

SMALL: dict[str, Any] = dict(max_frames=4, size=32, crf=0, shard_size=2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of videos; do not change it."""
    return write_videos(tmp_path_factory.mktemp("videos"))


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def samples(folder: Path) -> list[VideoSample]:
    raws = [raw for shard in sorted(folder.glob("*.tar")) for raw in read_samples(str(shard))]
    unpacked = [unpack_sample(raw["__key__"], raw) for raw in raws]
    return [sample for sample in unpacked if isinstance(sample, VideoSample)]


def damage(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "damaged.jsonl").read_text().splitlines()]


def many(count: int) -> list[dict[str, Any]]:
    return [chat(f"<image>What is {n}?", f"It is {n}.", video=f"clip{n % 6:03d}.mp4") for n in range(count)]


def test_conversations_frames_and_evidence_of_the_videos(videos: Path, tmp_path: Path) -> None:
    rows = [
        chat("<image>\nWhat?\nA. red\nB. blue", "A", "Why?", "So.", video="clip001.mp4"),
        chat("Again?", "Yes.", video="clip001.mp4"),
        chat("Wide?", "Yes.", video=str(videos / "deep" / "wide.mp4")),
    ]
    write_rows(tmp_path / "a.json", rows)
    captions = {"clip002": {"timestamps": [[0, 1.9], [1.4, 1.6]], "sentences": ["One.", "Two."], "duration": 4}}
    write_rows(tmp_path / "b.json", captions)
    import_shards(str(tmp_path / "*.json"), str(videos), str(tmp_path / "out"), **{**SMALL, "size": 48}, fps=2)
    assert check_shards(str(tmp_path / "out")) == 0
    first, wide, timed = samples(tmp_path / "out")
    assert number_of(first.frames[0].numpy()) == 1 and number_of(timed.frames[0].numpy()) == 2
    assert first.times.tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5])  # 4 frames, not 2 a second
    assert wide.frames.shape == (4, 16, 48, 3) and wide.times.tolist() == pytest.approx([0.25, 0.75, 1.25, 1.75])
    assert bool((wide.frames[:, :, 26:] > 200).all()) and bool((wide.frames[:, :, :22] < 50).all())
    kinds = [(q.type, q.text, q.answer, q.choices, q.history) for q in first.questions]
    asked = "What?\nA. red\nB. blue"
    assert kinds == [
        ("multiple_choice", asked, "A", ("A", "B"), ()),
        ("open_ended", "Why?", "So.", (), ((asked, "A"),)),
        ("open_ended", "Again?", "Yes.", (), ()),
    ]
    assert isinstance(first.questions[1], FollowUp)
    boxes = [[box[0] for box in q.evidence] for q in timed.questions]
    assert boxes == [[0, 1], [1]]  # frames in the interval, or the nearest one
    assert {box[1:] for q in timed.questions for box in q.evidence} == {(0.0, 0.0, 1.0, 1.0)}


def test_csv_with_a_column_map(videos: Path, tmp_path: Path) -> None:
    with open(tmp_path / "qa.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "ask", "label", "a0", "a1", "a2", "from", "to"])
        writer.writerow(["clip003", 'Which, "one"?\n', 2, "x", "y", "z", 1, 2.2])
        writer.writerow(["clip004", "How?", "so", "", "", "", "", ""])
    columns = {"video": "clip", "question": "ask", "answer": "label", "options": ["a0", "a1", "a2"]}
    columns |= {"start": "from", "end": "to"}
    words = [
        "shards",
        "import",
        "--annotations",
        str(tmp_path / "qa.csv"),
        "--videos",
        str(videos),
        "--max-frames",
        "4",
    ]
    assert main([*words, "--out", str(tmp_path / "out"), "--columns", json.dumps(columns)]) == 0
    one, two = samples(tmp_path / "out")
    question = one.questions[0]
    assert (question.text, question.answer, question.choices) == (
        'Which, "one"?\nA. x\nB. y\nC. z',
        "C",
        ("A", "B", "C"),
    )
    assert [box[0] for box in question.evidence] == [1] and number_of(two.frames[0].numpy()) == 4
    assert two.questions[0].answer == "so" and two.questions[0].choices == ()


def test_a_column_that_no_row_has_is_an_error_and_no_other_field_takes_its_place(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "qa.csv").write_text("video,question,answer\nclip003,What?,x\n")
    for name, columns in enumerate(({"video": "nope"}, {"start": "nope"}, {"options": ["answer", "nope"]})):
        with pytest.raises(DataError, match="no row has the field 'nope', which --columns names"):
            import_shards(
                str(tmp_path / "qa.csv"), str(videos), str(tmp_path / f"out{name}"), "csv", columns=columns, **SMALL
            )
        assert not list((tmp_path / f"out{name}").glob("*.tar"))
    rows = [
        {"clip": "clip003", "question": "What?", "answer": "x"},
        {"video": "clip004", "question": "Who?", "answer": "y"},
    ]
    file, folder = write_rows(tmp_path / "mixed.jsonl", rows), tmp_path / "mixed"
    import_shards(str(file), str(videos), str(folder), "csv", columns={"video": "clip"}, **SMALL)
    assert [one.questions[0].answer for one in samples(folder)] == ["x"]
    assert json.loads((folder / "import.json").read_text())["damaged"] == {"no_video": 1}


def test_workers_change_no_byte_and_the_choice_of_rows_is_seeded(videos: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", many(40))
    for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 1, 1)):
        import_shards(str(file), str(videos), str(tmp_path / name), sample=0.3, seed=seed, workers=workers, **SMALL)
    one, two = (content(tmp_path / name) for name in ("one", "two"))
    asked, others = ([s.questions for s in samples(tmp_path / name)] for name in ("one", "other"))
    assert one == two and asked != others
    assert 5 <= json.loads(one["import.json"])["chosen"] <= 20
    as_list = write_rows(tmp_path / "a.json", many(40))
    import_shards(str(as_list), str(videos), str(tmp_path / "list"), sample=0.3, **SMALL)
    assert [s.questions for s in samples(tmp_path / "list")] == asked


def pack_slowly() -> None:
    real = packing.encode_video
    packing.encode_video = lambda *video: time.sleep(0.1) or real(*video)  # type: ignore[assignment,func-returns-value]


def test_killed_runs_continue_to_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    rows = [*many(12), chat("<image>What?", "This.", video="none.mp4"), chat("<image>What?", "", video="clip000.mp4")]
    file, out = write_rows(tmp_path / "a.json", [*rows[12:], *rows[:12]]), tmp_path / "out"
    import_shards(str(file), str(videos), str(tmp_path / "whole"), **SMALL)
    words = ["shards", "import", "--annotations", str(file), "--videos", str(videos), "--out", str(out)]
    words += [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    for workers, done in (("1", 0), ("2", 2)):  # killed in the first shard, and again later
        command = ForkedCommand([*words, "--workers", workers], tmp_path / "log", pack_slowly)
        began = out / ".import" / "damaged-000000.jsonl"
        command.wait_until(lambda began=began, done=done: began.exists() and len([*out.glob("*.tar")]) >= done)
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL and not (out / "index.json").exists()
    before = {tar.name: tar.stat().st_mtime_ns for tar in out.glob("*.tar")}
    assert len(before) >= 2
    assert main([*words, "--workers", "2"]) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before  # not written again
    assert content(out) == content(tmp_path / "whole")
    assert not (out / ".import").exists() and {one["kind"] for one in damage(out)} == {"missing_video", "empty_answer"}


def test_a_plan_that_was_killed_is_made_again(videos: Path, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "a.json", many(6)), tmp_path / "out"
    import_shards(str(file), str(videos), str(tmp_path / "whole"), **SMALL)
    (out / ".import").mkdir(parents=True)
    (out / ".import" / "samples.jsonl").write_text('{"number": 0')  # without plan.json, which is written last
    import_shards(str(file), str(videos), str(out), **SMALL)
    assert content(out) == content(tmp_path / "whole")


def test_other_settings_and_folders_are_refused(videos: Path, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "a.json", many(4)), str(tmp_path / "out")
    import_shards(str(file), str(videos), out, **SMALL)
    write_rows(tmp_path / "b.json", [{"clip": 1}])
    write_rows(tmp_path / "c.json", many(5))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name, where, options, message in (
        ("a.json", "out", {"seed": 1}, "shards of other settings.*seed=0"),
        ("c.json", "out", {}, "shards of other settings"),
        ("a.json", "full", {}, "is not empty"),
        ("none.json", "new", {}, "no annotations at"),
        ("b.json", "new", {}, "fit no known format"),
        ("a.json", "new", {"format": "lava"}, "no format 'lava'.*llava"),
        ("a.json", "new", {"sample": 0}, "sample must be"),
        ("a.json", "new", {"size": 8000}, "size must be"),
        ("a.json", "new", {"max_frames": 10**6, "size": 4096}, "GB of memory"),
        ("a.json", "new", {"workers": 0}, "workers must be"),
        ("a.json", "new", {"format": "activitynet"}, "nothing can be imported from 4 of 4 rows: 4 no_turns"),
    ):
        with pytest.raises(DataError, match=message):
            import_shards(str(tmp_path / name), str(videos), str(tmp_path / where), **{**SMALL, **options})
    with pytest.raises(DataError, match="no folder of videos"):
        import_shards(str(file), str(tmp_path / "nowhere"), str(tmp_path / "new"), **SMALL)
    import_shards(str(file), str(videos), str(tmp_path / "new"), **SMALL)  # after all these attempts
    assert len(samples(tmp_path / "new")) == 4


def test_a_lost_shard_is_written_again_and_the_list_of_damage_stays(videos: Path, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "a.json", [*many(3), chat("What?", "This.", video="none.mp4")]), tmp_path / "out"
    import_shards(str(file), str(videos), str(out), **SMALL)
    before = content(out)
    (out / "shard-000000.tar").unlink()
    import_shards(str(file), str(videos), str(out), **SMALL)
    assert content(out) == before and "missing_video" in before["damaged.jsonl"].decode()


def test_nothing_that_decodes_is_an_error_with_its_reasons(videos: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.json", [chat("What?", "This.", video="none.mp4")])
    with pytest.raises(DataError, match="0 videos from 1 of 1 rows.*1 missing_video: there is no such file"):
        import_shards(str(file), str(videos), str(tmp_path / "out"), **SMALL)


def bad_rows() -> dict[str, Any]:
    """Return rows that are damaged, by the kind of their damage."""
    ask = {"type": "text", "text": "What?"}
    image = {"type": "image_url", "image_url": {"url": "a.png"}}
    flat = {"video": "clip000.mp4", "question": "What?", "answer": "This."}
    timed = {"video": "clip000.mp4", "sentences": ["One."]}
    return {
        "not_an_object": [1],
        "no_turns": {"video": "clip000.mp4", "conversations": []},
        "unknown_role": {"video": "clip000.mp4", "conversations": [{"from": "tool", "value": "x"}]},
        "wrong_order": {"video": "clip000.mp4", "conversations": [{"from": "gpt", "value": "x"}]},
        "unanswered": chat("What?", "This.", "And?"),
        "not_text": messages("What?", {"a": 1}, videos=["clip000.mp4"]),
        "empty_question": chat("<image>\n", "This."),
        "empty_answer": chat("<image>What?", "  "),
        "special_token": chat("<image>What is <|im_end|>?", "This."),
        "unstorable": chat("<image>What?", "\u200b"),
        "wrong_answer": chat("Which?\nA. x\nB. y", "C"),
        "wrong_options": {**flat, "options": ["x", "X"]},
        "misplaced_tag": chat("What?", "This.", "<video>And here?", "That."),
        "repeated_tag": chat("<image><image>What?", "This."),
        "wrong_time": {**timed, "timestamps": [[3, 1]]},
        "uneven_lists": {**timed, "timestamps": []},
        "no_video": chat("What?", "This.", video=None),
        "several_videos": messages("<video><video>Compare.", "Same.", videos=["clip000.mp4", "clip001.mp4"]),
        "has_images": messages([image, ask], "This."),
        "remote_video": chat("What?", "This.", video="https://example.org/a.mp4"),
        "outside_root": chat("What?", "This.", video="../clip000.mp4"),
        "missing_video": chat("What?", "This.", video="none.mp4"),
        "not_a_file": chat("What?", "This.", video="deep"),
        "empty_file": chat("What?", "This.", video="empty.mp4"),
        "not_a_video": chat("What?", "This.", video="text.mp4"),
        "no_video_stream": chat("What?", "This.", video="sound.wav"),
        "damaged_video": chat("What?", "This.", video="torn.mp4"),
        "outside_video": {**timed, "timestamps": [[SECONDS + 1, SECONDS + 2]]},
    }


def dialect_of(row: Any) -> str:
    fields = row if isinstance(row, dict) else {}
    names = {"messages": "messages", "sentences": "activitynet", "question": "csv"}
    return next((name for field, name in names.items() if field in fields), "llava")


def damaged_files(videos: Path) -> None:
    """Write damaged video files."""
    import wave

    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("no video" * 1000)
    whole = (videos / "clip000.mp4").read_bytes()
    moov = whole.rindex(b"moov")
    torn = bytearray(whole)
    torn[64 : moov - 64] = bytes(moov - 128)
    (videos / "torn.mp4").write_bytes(torn)
    with wave.open(str(videos / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 800, "NONE", ""))
        sound.writeframes(bytes(1600))


def test_every_kind_of_damage_is_counted_by_name_and_the_rest_imported(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos")
    damaged_files(videos)
    good = chat("<image>What?", "This.", video="clip005.mp4")
    files: dict[str, tuple[str, bytes]] = {}  # kind: format and content of a file with this damage after a good row
    for kind, row in bad_rows().items():
        intact = {
            "llava": good,
            "messages": messages("What?", "This.", videos=["clip005.mp4"]),
            "activitynet": {"video": "clip005.mp4", "timestamps": [[0, 1]], "sentences": ["One."]},
            "csv": {"video": "clip005.mp4", "question": "What?", "answer": "This."},
        }[dialect_of(row)]
        files[kind] = dialect_of(row), json.dumps([intact, row]).encode()
    line = json.dumps(good).encode()
    files["not_json"] = "llava", line + b'\n{"video": \n' + line + b"\n"
    files["cut_off"] = "llava", b"[" + line + b"," + line[:40]
    files["not_utf8"] = "llava", line + b"\n" + line.replace(b"This", b"\xff\xfe") + b"\n"
    files["too_large"] = "llava", line + b"\n" + b" " * 17_000_000 + line + b"\n" + line
    header = b"video,question,answer\nclip005.mp4,What?,This.\n"
    files["wrong_columns"] = "csv", header + b"clip005.mp4,What?\n"
    files["not_csv"] = "csv", header + b'clip005.mp4,"What"x?,This.\n'
    unreadable = {"unreadable_file"}  # below: the tests may run as root, who can read everything
    assert {*files, *unreadable} == {*DAMAGE}
    for kind, (dialect, text) in files.items():
        file = tmp_path / (f"{kind}.csv" if kind in ("wrong_columns", "not_csv") else f"{kind}.json")
        file.write_bytes(text)
        out = tmp_path / "out" / kind
        import_shards(str(file), str(videos), str(out), format=dialect, **SMALL)
        listed = damage(out)
        assert [one["kind"] for one in listed] == [kind], f"{kind}: {listed}"
        assert listed[0]["row"].startswith(file.name) and listed[0]["detail"], listed
        assert json.loads((out / "import.json").read_text())["damaged"] == {kind: 1}
        assert len(samples(out)) >= 1 and check_shards(str(out)) == 0, kind


def test_a_file_that_cannot_be_opened_is_listed(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_rows(tmp_path / "a.json", many(2))

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    real = module.find_video

    def find(root: Path, name: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            if name == "clip001.mp4":
                patch.setattr("builtins.open", refuse)
            return real(root, name)

    monkeypatch.setattr(module, "find_video", find)
    import_shards(str(file), str(videos), str(tmp_path / "out"), **SMALL)
    assert [one["kind"] for one in damage(tmp_path / "out")] == ["unreadable_file"] and len(
        samples(tmp_path / "out")
    ) == 1


def test_a_part_of_a_row_may_be_refused(videos: Path, tmp_path: Path) -> None:
    captions = [{"idx": 0, "content": "One."}, {"idx": 1, "content": "Two."}, {"idx": 7, "content": "Seven."}]
    row = {"video_id": "clip000", "timestamp": [0, 2.9], "captions": captions}
    import_shards(str(write_rows(tmp_path / "b.json", [row])), str(videos), str(tmp_path / "b"), **SMALL)
    found = [(q.answer, [box[0] for box in q.evidence]) for q in samples(tmp_path / "b")[0].questions]
    assert found == [("One.", [0, 1, 2]), ("Two.", [3])]  # the last one up to the end
    assert [(one["kind"], one["detail"]) for one in damage(tmp_path / "b")] == [
        ("wrong_time", "'key frame 7' is no time in seconds")
    ]
    rows = {"clip000": {"timestamps": [[0, 1], [2, 1], [9, 10]], "sentences": ["One.", "Two.", "Three."]}}
    import_shards(str(write_rows(tmp_path / "a.json", rows)), str(videos), str(tmp_path / "out"), **SMALL)
    assert [question.answer for question in samples(tmp_path / "out")[0].questions] == ["One."]
    assert sorted(one["kind"] for one in damage(tmp_path / "out")) == ["outside_video", "wrong_time"]


def test_the_summary_counts_and_a_second_run_repeats_it(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*many(3), *([chat("What?", "This.", video="none.mp4")] * 2)]
    file = write_rows(tmp_path / "a.json", rows)
    for _ in range(2):
        import_shards(str(file), str(videos), str(tmp_path / "out"), **SMALL)
        text = capsys.readouterr().out
        assert "3 videos from 5 of 5 rows" in text and "1 missing_video: there is no such file" in text
        assert [file.name for file in (tmp_path / "out").iterdir() if file.name.startswith(".")] == []


def test_progress_has_rate_and_time_left(videos: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.json", many(4))
    words = ["shards", "import", "--annotations", str(file), "--videos", str(videos), "--out", str(tmp_path / "out")]
    command = ForkedCommand([*words, "--shard_size", "2", "--max_frames", "2"], tmp_path / "log")
    assert command.wait() == 0
    text = (tmp_path / "log").read_text()
    assert "annotations: " in text and "s a MB" in text and ": 2/2, " in text and "s a shard, done in" in text


MEASURE = """
import re, sys
from framefold.data.imported.write_shards import import_shards
import_shards(*sys.argv[1:4], sample=float(sys.argv[4]), max_frames=2, size=32)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_annotations(videos: Path, tmp_path: Path) -> None:
    text = json.dumps(chat("<image>What?", "This. " * 600))  # 3.7 kB
    used = []
    for count, share in ((1000, "0.01"), (40_000, "0.0003")):
        with open(tmp_path / f"{count}.json", "w") as file:
            file.write("[")
            file.writelines(f"{text},\n" for _ in range(count - 1))
            file.write(f"{text}]")
        words = [str(tmp_path / f"{count}.json"), str(videos), str(tmp_path / f"{count}"), share]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", MEASURE, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=env)
        assert done.returncode == 0, done.stderr
        used.append(int(done.stdout.split()[-1]) / 1000)
    assert used[1] < used[0] + 60, used  # MB; reading the larger file as a whole takes more than 150 further ones


def test_times_are_those_of_the_stored_frames(videos: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.json", many(1))
    import_shards(str(file), str(videos), str(tmp_path / "out"), fps=FPS, size=32, crf=0)
    (sample,) = samples(tmp_path / "out")
    marks = sample.frames[:, 0, 0, 0].numpy()  # number of the frame in the file
    assert np.array_equal(marks, np.arange(SECONDS * FPS))
    assert np.allclose(sample.times.numpy(), (np.arange(SECONDS * FPS) + 0.5) / FPS)
