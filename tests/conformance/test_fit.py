"""Training in front of every family: from features without processor and vision encoder, and from videos."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from framefold.adapters.hosts.base.family import OLDEST_TRANSFORMERS
from framefold.data.shards.index import read_index
from framefold.errors import MissingExtraError
from framefold.training.fit.main import _needs_torchvision
from framefold.training.frozen_host.answer_format import AnswerFormat, infer_answer_format
from framefold.training.frozen_host.batch import encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.processor_host import ProcessorHost
from tests.support.hosts.fit_families import KEPT, LENGTHS, WAYS, samples, train
from tests.support.hosts.tiny_families import HOSTS
from tests.support.processes import needs_torchvision, python

OLDEST = Path(sys.prefix) / "transformers-oldest"  # `make setup` puts it there
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    done = python("-m", "tests.support.hosts.fit_families", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(made: Path) -> dict[str, dict[str, Any]]:
    return json.loads((made / "results.json").read_text())


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_features_and_cache_give_the_logits_of_the_full_prompt_from_pixels(name: str, results: Any) -> None:
    result = results[name]
    assert result["same"]  # stored, and made on the fly
    for way in WAYS:
        assert len(result[way]) == 10 and max(result[way]) < 1e-5  # questions
    assert min(result["differ"]) > 0.1  # so that a compressor can be told from none


@needs_torchvision
@pytest.mark.skipif(not OLDEST.is_dir(), reason=f"{OLDEST} is not there: make setup")
def test_so_do_those_made_with_the_oldest_supported_transformers(tmp_path: Path) -> None:
    first = f"import sys; sys.path.insert(0, {str(OLDEST)!r}); from tests.support.hosts.fit_families import main, Path;"
    names = ("glm4v", "qwen3_vl", "smolvlm", "llava_next_video")
    done = python("-c", f"{first} main(Path({str(tmp_path)!r}), *{names})")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    made = read_index(tmp_path / "features" / "smolvlm").settings
    assert made["transformers"].startswith(f"{OLDEST_TRANSFORMERS}.")
    for name in names:
        result = results[name]
        assert result["same"] and result["positions"] == [True] * 10
        assert max(sum((result[way] for way in WAYS), [])) < 1e-5 and min(result["differ"]) > 0.1


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_prefix_and_rows_have_the_positions_of_the_full_prompt(name: str, results: Any) -> None:
    assert results[name]["positions"] == [True] * 10


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_samples_hold_the_grid_and_what_stands_beside_it(name: str, results: Any) -> None:
    result, tiny = results[name], HOSTS[name]
    patch = 2 if name in ("glm4v", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe") else 1
    assert result["grid"] == result["attention"] == [-(-LENGTHS[0] // patch), *tiny.grid]
    assert result["layers"] == (2 if name.startswith("qwen3") else 0)
    assert result["reply"] == ["a video </s>", "<unk> </s>"] and set(result["ends"]) == {"assistant:"}
    cropped = name in ("llava_next_video", "video_llava")  # to the middle two thirds of the width
    assert result["steps"] == [3 // patch]
    assert result["left"] == pytest.approx([0, 0.26 if cropped else 0.34])
    frames, steps = (torch.tensor(times) for times in result["times"])
    assert steps.tolist() == pytest.approx(frames.view(-1, patch).mean(1).tolist()) and steps.unique().numel() > 2
    tokens = (-(-torch.tensor(LENGTHS) // patch) * tiny.tokens).tolist()
    types = {"mm_token_type_ids"} if tiny.token_types else set()  # of padded rows: as the processor gives them, or 0
    assert {key: [row.count(2) for row in rows] for key, rows in result["columns"].items()} == dict.fromkeys(
        types, tokens
    )


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_training_on_features_needs_no_processor_and_equals_training_on_videos(
    name: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessorHost, "encode_video", lambda *args: pytest.fail("a video was encoded"))
    module, before = train(made / "hosts" / name, made / "features" / name, "fila")
    after = module.compressor.state_dict()
    videos = load_file(made / "trained" / f"{name}.safetensors")
    assert after.keys() == videos.keys() and all(torch.equal(value, videos[key]) for key, value in after.items())
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
    assert not list(module.model.base_model.get_submodule(module.host.family.vision).parameters())


@needs_torchvision
@pytest.mark.parametrize("name", HOSTS)
def test_a_query_aware_compressor_learns_from_the_host_of_every_family(name: str, made: Path) -> None:
    losses = {"kl": 1.0, "attention": 1.0, "evidence": 1.0}
    module, before = train(made / "hosts" / name, made / "features" / name, "qtsplus", losses=losses)
    logged = module.trainer.callback_metrics
    assert all(torch.isfinite(logged[f"train/{part}"]) and logged[f"train/{part}"] > 0 for part in ("answer", *losses))
    changed = {key for key, value in module.compressor.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == {key.split(".")[0] for key in before}
    assert logged["train/visual_tokens"] >= KEPT


@needs_torchvision
@pytest.mark.parametrize("compressor", ["fila", "qtsplus", "storm"])
def test_a_host_in_bf16_trains_a_compressor_in_fp32(compressor: str, made: Path) -> None:
    module, before = train(made / "hosts/qwen3_vl", made / "features/qwen3_vl", compressor, host_dtype="bfloat16")
    assert module.model.dtype == torch.bfloat16
    after = module.compressor.state_dict()
    assert all(value.isfinite().all() and value.dtype == before[key].dtype for key, value in after.items())
    assert any(not torch.equal(value, before[key]) for key, value in after.items())


@needs_torchvision
def test_videos_without_torchvision_are_refused_before_training(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"torchvision==.*framefold shards features --host .*qwen2_vl"):
        train(made / "hosts/qwen2_vl", made / "videos", "fila")


@needs_torchvision
def test_framefold_fit_finds_torchvision_for_hosts_that_need_it(made: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"model": {"host": str(made / "hosts/qwen2_5_vl"), "host_frames": 4}}))
    words = ["fit", "--config", "compressor/fila", "--config", "trainer/cpu", "--config", str(own)]
    words += ["--data.shards", str(made / "videos"), "--trainer.max_steps", "2", "--data.batch_size", "2"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.default_root_dir", str(tmp_path / "run")]
    done = python("-m", "framefold", *words)
    assert done.returncode == 0 and "2 steps done" in done.stdout, done.stderr[-3000:]
    assert list((tmp_path / "run").rglob("last.ckpt"))


@needs_torchvision
@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ([], False),
        (["--model.host", "checkpoints/tinyhost"], False),
        (["--model.host=HOST"], True),
        (["--config", "trainer/cpu", "--model.host", "HOST"], True),
        (["--config", "no/such", "--model.host", "HOST"], True),  # what is wrong is said later
        (["--config", "YAML"], True),
        (["--config=YAML", "--model.host=checkpoints/tinyhost"], False),
        (["--model.host", "no/host"], False),
        (["--model.host", "HOST", "--model.host_revision", "main"], False),
        (["--model.host"], False),
    ],
)
def test_the_host_is_found_in_the_arguments(words: list[str], needed: bool, made: Path, tmp_path: Path) -> None:
    host, own = str(made / "hosts/qwen2_vl"), tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"model": {"host": host}}))
    assert _needs_torchvision([word.replace("HOST", host).replace("YAML", str(own)) for word in words]) is needed


@needs_torchvision
def test_features_of_prompts_of_unequal_length_are_asked_as_alone(made: Path) -> None:
    from framefold.adapters import build
    from framefold.training.frozen_host.batch import answer_questions

    for name in ("glm4v", "qwen2_5_vl", "smolvlm"):
        host, stored = load_host(made / "hosts" / name), samples(made / "features" / name)
        assert len({len(sample.columns["input_ids"]) for sample in stored}) > 1
        together = encode_batch(host, stored)
        logits = answer_questions(host, build("st_simdiff", KEPT), together).logits
        row = 0
        for sample in stored:
            alone = answer_questions(host, build("st_simdiff", KEPT), encode_batch(host, [sample])).logits
            ours = logits[row : row + len(alone), : alone.shape[1]]
            torch.testing.assert_close(ours, alone, atol=2e-5, rtol=1e-4)
            row += len(alone)


# ---- answers in the style of a host ---------------------------------------------------------------------------------

LLAVA = """{% for m in messages %}{{ m.role.upper() }}: {% for p in m.content %}{% if p.type == 'video' %}<video>
{% else %}{{ p.text }}{% endif %}{% endfor %}{% if m.role == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""
QWEN = """{% for m in messages %}<im>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text or '<video>' }}{% endfor %}
{%- endif %}<end>
{% endfor %}{% if add_generation_prompt %}<im>assistant
{% endif %}"""
THINKS = QWEN.replace("<im>assistant\n", "<im>assistant\n<think>")
SILENT = """{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}
{{- m.content[1].text }}{%- endfor %} Answer:"""


@pytest.mark.parametrize(
    ("template", "stops", "style"),
    [
        (LLAVA, None, AnswerFormat(" ", (2,))),
        (QWEN, [2, 5], AnswerFormat("", (5,))),  # as the template ends an answer
        (QWEN, 2, AnswerFormat("", (2,))),  # the host does not stop at that
        (
            THINKS,
            [5],
            AnswerFormat("", (5,)),
        ),  # a prompt that no conversation repeats, and which ends in a special token
        (SILENT, None, AnswerFormat(" ", (2,))),
    ],
    ids=["llava", "qwen", "other-end", "thinks", "silent"],
)
def test_answers_are_written_as_the_chat_template_writes_them(template: str, stops: Any, style: AnswerFormat) -> None:
    words = ["<pad>", "<unk>", "</s>", "<video>", "<im>", "<end>", "<think>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words)
    extra = {"im": "<im>", "end": "<end>", "think": "<think>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", extra_special_tokens=extra
    )
    fast.chat_template = template
    processor = SimpleNamespace(
        tokenizer=fast,
        apply_chat_template=lambda messages, **how: fast.apply_chat_template(messages, tokenize=False, **how),
    )
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=stops))
    assert infer_answer_format(processor, model) == style
