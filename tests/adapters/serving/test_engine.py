"""vLLM with the plug-in answers as transformers with ``framefold.attach``. ``make serving-test`` runs these tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import framefold

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make serving-test", allow_module_level=True)

import transformers

from framefold.adapters.serving.vllm import positions
from framefold.adapters.serving.vllm.compression import VideoCompression
from framefold.adapters.serving.vllm.settings import ServingSettings
from framefold.cli.merge import merge_into_host
from framefold.training.export.from_checkpoint import load_for_export
from framefold.training.frozen_host.locate import find_host
from tests.support.paths import ROOT
from tests.support.serving.engine import TOLERANCE, Answer, attached, engine, served
from tests.support.serving.hosts import Clip, prompts, save_adapter, save_host

PRUNING: dict[str, Any] = {"compressor": "st_simdiff", "budget": 0.25}
MERGING: dict[str, Any] = {"compressor": "sttm", "budget": 0.25}
TOKENS: dict[str, Any] = {"compressor": "uniform", "budget": 6}  # less than one token a frame
KINDS = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]
# They share the code of the others, so fewer ways to run them are tested.
COUSINS = ["qwen2_vl", "qwen3_vl_moe", "llava_next_video", "glm4v", "internvl"]
CHUNKS = {"max_num_batched_tokens": 16, "enable_chunked_prefill": True}
PREFIXES = {"enable_prefix_caching": True, "block_size": 32}
BOTH = {**CHUNKS, **PREFIXES, "max_num_batched_tokens": 48}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a host of a family, made on first use."""
    made = {"llava_onevision": ROOT / "checkpoints" / "tinyhost"}

    def host(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_host(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return host


@pytest.fixture(scope="module")
def oracle(hosts: Callable[[str], Path]) -> Callable[..., dict[str, Answer]]:
    """Return the answers of transformers to the prompts of a family, by name of the prompt."""
    known: dict[str, dict[str, Answer]] = {}

    def answers(kind: str, settings: dict[str, Any] | None) -> dict[str, Answer]:
        key = f"{kind} {settings}"
        if key not in known:
            model = transformers.AutoModelForImageTextToText.from_pretrained(hosts(kind)).eval()
            processor = transformers.AutoProcessor.from_pretrained(hosts(kind))
            if settings is not None:
                _, compressor = ServingSettings.from_dict(settings).resolved()
                framefold.attach(model, compressor, positions=settings.get("positions", "preserve"))
            named = prompts(kind)
            known[key] = dict(zip(named, attached(model, processor, list(named.values())), strict=True))
        return known[key]

    return answers


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """ServingSettings of an adapter with weights."""
    return {"adapter": str(save_adapter("storm", tmp_path_factory.mktemp("storm")))}


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of tokens of the videos that the engine compresses."""
    calls: list[int] = []
    compress = VideoCompression.compress_video

    def counted(self: Any, clip: Any, *question: Any) -> Any:
        calls.append(len(clip))
        return compress(self, clip, *question)

    monkeypatch.setattr(VideoCompression, "compress_video", counted)
    return calls


def compare(wanted: dict[str, Answer], given: list[Answer]) -> None:
    differences = {name: want.difference(got) for (name, want), got in zip(wanted.items(), given, strict=True)}
    assert {name: value for name, value in differences.items() if value > TOLERANCE} == {}


def check(kind: str, settings: dict[str, Any], hosts: Any, oracle: Any, rounds: int = 1, **options: Any) -> None:
    """Compare all prompts of a family, one by one and then all at once, several times in one engine."""
    wanted = oracle(kind, settings)
    named = list(prompts(kind).values())
    with engine(hosts(kind), kind, settings, **options) as llm:
        for _ in range(rounds):
            compare(wanted, [served(llm, kind, [prompt])[0] for prompt in named])
        compare(wanted, served(llm, kind, named))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [PRUNING, MERGING, TOKENS], ids=["pruning", "merging", "six tokens"])
def test_answers_equal_those_of_attach(kind: str, settings: dict[str, Any], hosts: Any, oracle: Any) -> None:
    check(kind, settings, hosts, oracle)
    bare = oracle(kind, None)
    assert any(bare[name].tokens != answer.tokens for name, answer in oracle(kind, settings).items())


@pytest.mark.parametrize("kind", COUSINS)
def test_answers_of_similar_hosts_equal_those_of_attach_also_in_chunks(kind: str, hosts: Any, oracle: Any) -> None:
    check(kind, MERGING, hosts, oracle)
    check(kind, PRUNING, hosts, oracle, **{**BOTH, "max_num_batched_tokens": 96})  # of the longest compressed video
    bare = oracle(kind, None)
    assert any(bare[name].tokens != answer.tokens for name, answer in oracle(kind, MERGING).items())


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_adapters_with_weights_answer_as_attached(kind: str, adapter: Any, hosts: Any, oracle: Any) -> None:
    check(kind, adapter, hosts, oracle)


@pytest.mark.parametrize("name", ["storm"])
def test_shipped_adapters_answer_as_attached(name: str, hosts: Any, oracle: Any) -> None:
    settings = {"adapter": str(ROOT / "checkpoints" / name), "budget": 102}
    check("llava_onevision", settings, hosts, oracle)


def test_a_merged_folder_is_served_without_overrides(hosts: Any, oracle: Any, tmp_path: Path) -> None:
    kind, folder = "llava_onevision", ROOT / "checkpoints" / "storm"
    merged = merge_into_host(
        load_for_export(str(folder), None, None, None), find_host(str(hosts(kind))), tmp_path / "merged"
    )
    with engine(merged, kind, None) as llm:
        compare(oracle(kind, {"adapter": str(folder)}), served(llm, kind, prompts(kind).values()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [CHUNKS, PREFIXES, BOTH], ids=["chunks", "prefixes", "both"])
def test_chunks_and_cached_prefixes_change_nothing(
    kind: str, options: dict[str, Any], hosts: Any, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = []
    write = positions.write_positions

    def noted(placeholders: Any, pieces: Any, *rest: Any) -> Any:
        inside.extend(int(positions.read_channels(piece[:1, -positions.CHANNELS :])[0, 3]) for piece in pieces)
        return write(placeholders, pieces, *rest)

    monkeypatch.setattr(positions, "write_positions", noted)
    check(kind, MERGING, hosts, oracle, rounds=2 if options is PREFIXES else 1, **options)
    if options is CHUNKS:
        assert any(inside), "no step began inside of a video"


@pytest.mark.parametrize("kind", ["llava_onevision", "internvl"])
def test_compact_positions_equal_those_of_attach(kind: str, hosts: Any, oracle: Any) -> None:
    settings = PRUNING | {"positions": "compact"}
    check(kind, settings, hosts, oracle)
    assert oracle(kind, settings) != oracle(kind, PRUNING)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_text_behind_all_axes_equals_attach(kind: str, hosts: Any, oracle: Any) -> None:
    settings = MERGING | {"positions": "all_axes"}
    check(kind, settings, hosts, oracle)
    assert oracle(kind, settings) != oracle(kind, MERGING)


class WronglyTimed(Clip):
    """A video whose metadata have the times of two frames."""

    @property
    def metadata(self) -> dict[str, Any]:
        return super().metadata | {"frames_indices": [0, 1]}


def test_a_video_with_times_of_other_frames_is_refused_and_the_engine_continues(hosts: Any) -> None:
    right = prompts("glm4v")["video 0"]
    wrong = replace(right, clips=[WronglyTimed(right.clips[0].frames)])
    with engine(hosts("glm4v"), "glm4v", MERGING) as llm:
        with pytest.raises(ValueError, match="a video has 8 steps in time, but 1 times"):
            served(llm, "glm4v", [wrong])
        assert served(llm, "glm4v", [right])


def test_a_video_is_compressed_once_for_all_questions(hosts: Any, compressions: list[int]) -> None:
    kind = "llava_onevision"
    with engine(hosts(kind), kind, MERGING) as llm:
        compressions.clear()  # of the probe
        named = prompts(kind)
        for name in ("video 0", "other question", "same question again", "video 0"):
            served(llm, kind, [named[name]], 1)
    assert len(compressions) == 1


def test_the_engine_without_our_overrides_is_as_it_was(hosts: Any, oracle: Any, compressions: list[int]) -> None:
    wanted = oracle("qwen3_vl", None)
    with engine(hosts("qwen3_vl"), "qwen3_vl", None) as llm:
        compare(wanted, served(llm, "qwen3_vl", prompts("qwen3_vl").values()))
    assert not compressions


def test_a_different_rule_of_positions_is_noticed(hosts: Any, oracle: Any) -> None:
    """A control of these tests: the engine's own Qwen2.5-VL numbers text behind a video differently."""
    wanted = oracle("qwen2_5_vl", None)
    with engine(hosts("qwen2_5_vl"), "qwen2_5_vl", None) as llm:
        given = served(llm, "qwen2_5_vl", prompts("qwen2_5_vl").values())
    pairs = zip(wanted.items(), given, strict=True)
    different = {name for (name, want), got in pairs if want.difference(got) > TOLERANCE}
    assert different >= {f"video {i}" for i in range(4)} and "text only" not in different
    everything = {"compressor": "identity", "budget": 1.0, "positions": "all_axes"}  # in transformers
    compare(oracle("qwen2_5_vl", everything), given)
