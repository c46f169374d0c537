"""``framefold answer`` on a tiny host of every family through its real processor."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.support.hosts.tiny_families import HOSTS
from tests.support.processes import needs_torchvision, python


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("families")
    done = python("-m", "tests.support.hosts.answer_families", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cap_pixels_per_frame" not in done.stderr  # decided, so no processor has to warn
    return json.loads((folder / "results.json").read_text())


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_every_family_answers_through_its_own_processor(name: str, families: dict[str, dict[str, Any]]) -> None:
    result, tiny = families[name], HOSTS[name]
    whole, few = result["whole"], result["few"]
    steps, h, w = result["grid"]
    assert (h, w) == tiny.grid and whole["visual"] == few["visual"] == steps * h * w
    for field in ("text", "visual", "prompt"):  # the identity compressor leaves the host as it is
        assert whole["compressed"][field] == whole["full"][field]
    assert [whole["full"]["prompt"], few["compressed"]["prompt"]] == result["columns"]
    assert few["compressed"]["visual"] == result["kept"] == 5 and few["full"] is None
    assert "whatisit?" in result["prompt"] and result["prompt"].lower().endswith("assistant:")
    assert result["lone"] in (None, [h * w, 3])
    assert result["drawn"] == b"\x89PNG".hex()  # by framefold show
    assert result["asked"]  # the probe got the words of the question and nothing of the template


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_compressors_get_the_time_of_every_step_of_the_grid(name: str, families: dict[str, dict[str, Any]]) -> None:
    result = families[name]
    times, steps = np.array(result["sampled"]), result["grid"][0]
    assert times.tolist() == [0.5, 1, 2.5, 4, 4.25, 6]  # of a variable frame rate
    assert result["times"] == pytest.approx(times.reshape(steps, -1).mean(1).tolist())


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("qwen3_vl", r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
        ("qwen3_vl_moe", r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
        ("video_llama_3", r"Time([\d.]+)s:", ["0.5", "1.0", "2.5", "4.0", "4.2", "6.0"]),
        ("glm4v", r"<\|end_of_image\|>(\d+)", ["0", "2", "4"]),  # of the first frame of each step
        ("smolvlm", r"Framefrom(\d+:\d+):", ["00:00", "00:01", "00:02", "00:04", "00:04", "00:06"]),
    ],
)
def test_processors_that_write_times_write_true_ones(
    name: str, pattern: str, expected: list[str], families: dict[str, dict[str, Any]]
) -> None:
    assert re.findall(pattern, families[name]["prompt"]) == expected
