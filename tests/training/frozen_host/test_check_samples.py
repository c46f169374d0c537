"""``framefold shards check --host`` reports the special tokens of that host and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from framefold.__main__ import main
from framefold.errors import HostError
from framefold.training.frozen_host.check_samples import check_samples
from tests.support.own_shards import write_own_shards


def test_texts_are_compared_with_the_special_tokens_of_the_host(random_host: Path, tmp_path: Path, capsys) -> None:
    texts = {1: {"text": "a <|video_pad|> b"}, 2: {"text": "a <video> b"}, 3: {"text": "<assistant> yes"}}
    shards = str(write_own_shards(tmp_path / "shards", 4, texts))
    for words, named in (((), (1, 2, 3)), (("--host", str(random_host)), (2, 3))):
        capsys.readouterr()
        assert main(["shards", "check", "--shards", shards, *words]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(" ")[0] for line in lines[:-1]] == [f"own-{number}.json:" for number in named], lines
        assert lines[-1] == f"{4 - len(named)} of 4 samples are intact"
    with pytest.raises(HostError, match="nowhere"):
        check_samples(shards, host=str(tmp_path / "nowhere"))
