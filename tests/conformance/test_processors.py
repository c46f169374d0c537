"""Every family through its real processor: answers about a video, features for training, and training on both."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from framefold.adapters.hosts.base.family import OLDEST_TRANSFORMERS
from framefold.data.shards.index import read_index
from framefold.errors import HostError, MissingExtraError
from framefold.training.fit.main import _needs_torchvision
from framefold.training.frozen_host.batch import encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.processor_host import ProcessorHost
from tests.support.hosts.processor_families import FEATURED, KEPT, LENGTHS, LOSSES, QUESTIONS, SHOWN, samples, train
from tests.support.hosts.tiny_families import HOSTS, WITHOUT_ENCODER
from tests.support.processes import needs_torchvision, python

OLDEST = Path(sys.prefix) / "transformers-oldest"  # installed by `make setup`
pytestmark = [
    needs_torchvision,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # Lightning's advice
]
WRITTEN_TIMES: dict[str, tuple[str, list[str]]] = {  # in the prompt, by processors that write them
    "gemma4": (r"(\d\d:\d\d)<", ["00:00", "00:01", "00:02", "00:04", "00:04", "00:06"]),
    "gemma4_unified": (r"(\d\d:\d\d)<", ["00:00", "00:01", "00:02", "00:04", "00:04", "00:06"]),
    "qwen3_5": (r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
    "qwen3_5_moe": (r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
    "qwen3_vl": (r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
    "qwen3_vl_moe": (r"<([\d.]+)seconds>", ["0.8", "3.2", "5.1"]),
    "video_llama_3": (r"Time([\d.]+)s:", ["0.5", "1.0", "2.5", "4.0", "4.2", "6.0"]),
    "molmo2": (r"([\d.]+)<frame_start>", ["0.5", "1.0", "2.5", "4.0", "4.2", "6.0"]),
    "glm46v": (r"<\|end_of_image\|>([\d.]+)seconds", ["0.5", "2.5", "4.2"]),
    "glm4v_moe": (r"<\|end_of_image\|>(\d+)", ["0", "2", "4"]),
    "glm4v": (r"<\|end_of_image\|>(\d+)", ["0", "2", "4"]),  # of the first frame of each step
    "smolvlm": (r"Framefrom(\d+:\d+):", ["00:00", "00:01", "00:02", "00:04", "00:04", "00:06"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hosts, features, trained weights and results of all families."""
    folder = tmp_path_factory.mktemp("families")
    done = python("-m", "tests.support.hosts.processor_families", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cap_pixels_per_frame" not in done.stderr  # framefold sets it, so that no processor warns
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", HOSTS)
def test_every_family_answers_through_its_own_processor(name: str, results: Any) -> None:
    result, tiny = results[name]["answer"], HOSTS[name]
    full, few = result["full"], result["few"]
    steps, h, w = result["grid"]
    assert (h, w) == tiny.grid and full["visual"] == few["visual"] == steps * h * w
    for field in ("text", "visual", "prompt"):  # the identity compressor changes nothing
        assert full["compressed"][field] == full["full"][field]
    assert [full["full"]["prompt"], few["compressed"]["prompt"]] == result["columns"]
    assert few["compressed"]["visual"] == result["kept"] == KEPT and few["full"] is None
    assert "whatisit?" in result["prompt"] and result["prompt"].lower().endswith("assistant:")
    assert result["single"] == [h * w, 3]  # of one frame, though a single image could be a still
    assert result["png"] == (b"\x89PNG".hex() if name in SHOWN else None)  # of framefold show
    assert result["question"]  # the compressor got the words of the question and nothing of the template


@pytest.mark.parametrize("name", HOSTS)
def test_compressors_and_prompts_get_the_true_times(name: str, results: Any) -> None:
    result = results[name]["answer"]
    times, steps = torch.tensor(result["sampled"]), result["grid"][0]
    assert times.tolist() == [0.5, 1, 2.5, 4, 4.25, 6]  # of a variable frame rate
    assert result["times"] == pytest.approx(times.view(steps, -1).mean(1).tolist())
    if name in WRITTEN_TIMES:
        pattern, expected = WRITTEN_TIMES[name]
        assert re.findall(pattern, result["prompt"]) == expected


def check_features(result: dict[str, Any]) -> None:
    """Check that features give the logits and positions of the full prompt, computed from pixels."""
    assert result["same"]  # stored features, and features computed during training
    for key, errors in result["errors"].items():
        assert len(errors) == 6 and max(errors) < 1e-5, key  # one error per question
    for key, differences in result["differences"].items():  # so that a missing compressor would be noticed
        assert min(differences) > (0.1 if key in ("few", "query") else 0.03), key
    assert result["positions"] == [True] * 6


@pytest.mark.parametrize("name", FEATURED)
def test_features_give_the_logits_and_positions_of_the_full_prompt(name: str, results: Any) -> None:
    check_features(results[name]["features"])


@pytest.mark.parametrize("name", FEATURED)
def test_turns_before_a_question_are_in_its_prompt(name: str, results: Any) -> None:
    written, (first, second) = results[name]["features"]["follow_up"].values()
    (asked, answer), (text, _) = QUESTIONS[:2]
    turns = [written.index(asked), written.index(answer, written.index(asked)), written.rindex(text)]
    assert turns == sorted(turns)
    asked, text = ("".join(words.split()).lower() for words in (asked, text))
    assert asked in first and text not in first and 0 <= second.index(asked) < second.index(text)
    assert second[-10:] == first[-10:]


@pytest.mark.skipif(not OLDEST.is_dir(), reason=f"{OLDEST} does not exist: run make setup")
def test_features_on_the_oldest_supported_transformers(tmp_path: Path) -> None:
    module = "tests.support.hosts.processor_families"
    first = f"import sys; sys.path.insert(0, {str(OLDEST)!r}); from {module} import main, Path;"
    names = ("glm4v", "qwen3_vl", "smolvlm", "llava_next_video")
    done = python("-c", f"{first} main(Path({str(tmp_path)!r}), *{names})")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    settings = read_index(tmp_path / "features" / "smolvlm").settings
    assert settings["transformers"].startswith(f"{OLDEST_TRANSFORMERS}.")
    for name in names:
        check_features(results[name]["features"])


@pytest.mark.parametrize("name", FEATURED)
def test_samples_contain_the_grid_and_its_text(name: str, results: Any) -> None:
    result, tiny = results[name]["features"], HOSTS[name]
    patch = 2 if name.startswith(("glm4", "qwen")) else 1
    assert result["grid"] == [-(-LENGTHS[0] // patch), *tiny.grid]
    assert result["attention"] == (None if name in WITHOUT_ENCODER else result["grid"])
    assert result["single"] == [1, *tiny.grid, 0]  # a video of one frame
    assert result["layers"] == (2 if name.startswith(("qwen3_vl", "qwen3_omni")) else 0)
    assert result["replies"] == ["a video </s>", "<unk> </s>"] and set(result["ends"]) == {"assistant:"}
    cropped = name in ("llava_next_video", "video_llava")  # to the middle two thirds of the width
    assert result["steps"] == [3 // patch]
    assert result["left"] == pytest.approx([0, 0.26 if cropped else 0.34])
    frames, steps = (torch.tensor(times) for times in result["times"])
    assert steps.tolist() == pytest.approx(frames.view(-1, patch).mean(1).tolist()) and steps.unique().numel() > 2
    tokens = (-(-torch.tensor(LENGTHS) // patch) * tiny.tokens).tolist()
    types = {"mm_token_type_ids"} if tiny.reads_types else set()  # in padded rows as the processor sets them, or 0
    visual = {key: [row.count(tiny.video_type) for row in rows] for key, rows in result["columns"].items()}
    assert visual == dict.fromkeys(types, tokens)


def test_a_host_whose_video_sees_the_mark_behind_it_is_refused_for_training(folder: Path) -> None:
    with pytest.raises(HostError, match="cannot share one prefix"):
        train(folder / "hosts" / "molmo2", folder / "videos", losses=LOSSES)


@pytest.mark.parametrize("name", FEATURED)
def test_training_on_features_needs_no_processor_and_equals_training_on_videos(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a query-aware compressor and all losses, so every part of it must change."""
    monkeypatch.setattr(ProcessorHost, "encode_video", lambda *args: pytest.fail("a video was encoded"))
    module, before = train(folder / "hosts" / name, folder / "features" / name, losses=LOSSES)
    after = module.compressor.state_dict()
    videos = load_file(folder / "trained" / f"{name}.safetensors")
    assert after.keys() == videos.keys() and all(torch.equal(value, videos[key]) for key, value in after.items())
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == {key.split(".")[0] for key in before}
    logged = module.trainer.callback_metrics
    assert all(torch.isfinite(logged[f"train/{part}"]) and logged[f"train/{part}"] > 0 for part in ("answer", *LOSSES))
    assert logged["train/visual_tokens"] >= KEPT
    assert not list(module.model.base_model.get_submodule(module.host.family.vision).parameters())


@pytest.mark.parametrize("compressor", ["fila", "qtsplus", "storm"])
def test_a_host_in_bf16_trains_a_compressor_in_fp32(compressor: str, folder: Path) -> None:
    features = folder / "features/qwen3_vl"
    module, before = train(folder / "hosts/qwen3_vl", features, compressor, host_dtype="bfloat16")
    assert module.model.dtype == torch.bfloat16
    after = module.compressor.state_dict()
    assert all(value.isfinite().all() and value.dtype == before[key].dtype for key, value in after.items())
    assert any(not torch.equal(value, before[key]) for key, value in after.items())


def test_videos_without_torchvision_are_refused_before_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"torchvision==.*framefold shards features --host .*qwen2_vl"):
        train(folder / "hosts/qwen2_vl", folder / "videos", "fila")


def test_framefold_fit_finds_torchvision_for_hosts_that_need_it(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"model": {"host": str(folder / "hosts/qwen2_5_vl"), "host_frames": 4}}))
    words = ["fit", "--config", "compressor/fila", "--config", "trainer/cpu", "--config", str(settings)]
    words += ["--data.shards", str(folder / "videos"), "--trainer.max_steps", "2", "--data.batch_size", "2"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.default_root_dir", str(tmp_path / "run")]
    done = python("-m", "framefold", *words)
    assert done.returncode == 0 and "2 steps done" in done.stdout, done.stderr[-3000:]
    assert list((tmp_path / "run").rglob("last.ckpt"))


ARGUMENTS: list[tuple[list[str], bool]] = [
    ([], False),
    (["--model.host", "checkpoints/tinyhost"], False),
    (["--model.host=HOST"], True),
    (["--config", "trainer/cpu", "--model.host", "HOST"], True),
    (["--config", "no/such", "--model.host", "HOST"], True),  # the unknown config is reported later
    (["--config", "YAML"], True),
    (["--config=YAML", "--model.host=checkpoints/tinyhost"], False),
    (["--model.host", "no/host"], False),
    (["--model.host", "HOST", "--model.host_revision", "main"], False),
    (["--model.host"], False),
]


def test_the_need_for_torchvision_is_found_in_the_arguments(folder: Path, tmp_path: Path) -> None:
    host, settings = str(folder / "hosts/qwen2_vl"), tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"model": {"host": host}}))
    for words, needed in ARGUMENTS:
        arguments = [word.replace("HOST", host).replace("YAML", str(settings)) for word in words]
        assert _needs_torchvision(arguments) is needed, words


def test_prompts_of_unequal_length_give_the_same_logits_together_and_alone(folder: Path) -> None:
    from framefold.adapters import build
    from framefold.training.frozen_host.batch import answer_questions

    for name in ("glm4v", "qwen2_5_vl", "smolvlm"):
        host, stored = load_host(folder / "hosts" / name), samples(folder / "features" / name)
        assert len({len(sample.columns["input_ids"]) for sample in stored}) > 1
        logits = answer_questions(host, build("st_simdiff", KEPT), encode_batch(host, stored)).logits
        row = 0
        for sample in stored:
            alone = answer_questions(host, build("st_simdiff", KEPT), encode_batch(host, [sample])).logits
            together = logits[row : row + len(alone), : alone.shape[1]]
            torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
            row += len(alone)
