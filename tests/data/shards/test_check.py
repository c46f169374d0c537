"""``framefold shards check`` names every damaged sample, with the field."""

from __future__ import annotations

import io
import tarfile

import pytest

from framefold.data.shards.check import check_shards
from framefold.data.shards.sources import index_shards
from tests.support.own_shards import BAD_SAMPLES, write_own_shards


def test_check_names_key_and_field_of_every_damaged_sample(tmp_path, capsys):
    bad = {2 * number: change for number, change in enumerate(BAD_SAMPLES.values())}
    tokens = ("<|video_pad|>", "<image>", "<IMG_CONTEXT>", "<|vision_start|>", "<fake_token_around_image>", "</s>")
    bad |= {11 + number: {"text": f"a {token} b"} for number, token in enumerate(tokens)}
    folder = write_own_shards(tmp_path, 18, bad)
    capsys.readouterr()
    assert check_shards(str(folder)) == 1
    *problems, total = capsys.readouterr().out.splitlines()
    assert total == "7 of 18 samples are intact" and len(problems) == 11
    fields = {2 * number: field for number, field in enumerate(BAD_SAMPLES)}
    for number in bad:
        (line,) = [line for line in problems if line.startswith(f"own-{number}.")]
        assert f" {fields.get(number, 'questions[0].text')}" in line, line
        assert number < 11 or repr(tokens[number - 11]) in line, line


@pytest.mark.filterwarnings("ignore:.*samples that lack a file")
def test_check_prints_keys_that_are_no_text(tmp_path, capsys):
    with tarfile.open(tmp_path / "x.tar", "w", encoding="latin-1") as tar:
        entry = tarfile.TarInfo("caf\xe9.json")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"{}"))
    index_shards(str(tmp_path))
    assert check_shards(str(tmp_path)) == 1
    assert "has no mp4" in capsys.readouterr().out
