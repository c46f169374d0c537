"""Query-aware compressors get the question about each video from the prompt or from the caller."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

import framefold
from framefold.adapters import Compressor
from framefold.adapters.hosts import prepare
from framefold.adapters.hosts.prompt import question as query
from framefold.errors import InputError
from tests.support.hosts.tiny_families import FIRST_WORD, HOSTS, LAST_WORD, TIME, VOCAB, labels_of
from tests.support.paths import TINYHOST

STAMPS = {
    "gemma4": "00:01",
    "gemma4_unified": "00:01",
    "internvl": "Frame7:",
    "molmo2": "1.5",
    "smolvlm": "Frame from 00:07:",
}


class QueryRecorder(Compressor):
    """Keeps a quarter of the tokens and records the queries."""

    query_aware = True

    def __init__(self) -> None:
        super().__init__(0.25)
        self.name = "query_recorder"
        self.queries: list[Tensor] = []

    def compress(self, video: Any, k: int, query: Tensor | None) -> Any:
        assert query is not None
        self.queries.append(query)
        return video.keep(torch.arange(k))


def tokenizer_for(name: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one word per id; other ids are special, except the one for a frame's time."""
    texts = {f"w{id}" if FIRST_WORD <= id < LAST_WORD else f"<|{id}|>": id for id in range(VOCAB) if id != TIME}
    texts[STAMPS.get(name, "<1.5 seconds>")] = TIME
    words = Tokenizer(models.WordLevel(texts, unk_token="<|1|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = [text for text, id in texts.items() if text.startswith("<|") and id != TIME]
    return PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=specials, chat_template=template)


def words_of(host: Any, row: Tensor) -> Tensor:
    """Return the embeddings of the words of a row, without special tokens and placeholders."""
    return host.get_input_embeddings()(row[(row >= FIRST_WORD) & (row < LAST_WORD)])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", HOSTS)
def test_the_words_around_a_video_are_its_question(name: str) -> None:
    host, recorder = HOSTS[name].build(), QueryRecorder()
    inputs = HOSTS[name].inputs([5, -4, 6], [9, -3, 3])
    with framefold.attach(host, recorder, tokenizer=tokenizer_for(name)):
        host(**inputs)
        host.generate(**inputs, max_new_tokens=1)
    expected = [words_of(host, row) for row in inputs["input_ids"]]
    assert [len(query) for query in expected] == [11, 12]
    assert len(recorder.queries) == 4
    assert all(map(torch.equal, recorder.queries, expected * 2))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_the_question_contains_neither_template_nor_answer(name: str) -> None:
    user, assistant = "<|62|> w3 ", " <|63|> w4 "
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}" + user + "{% else %}" + assistant + "{% endif %}"
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}" + assistant + "{% endif %}"
    )
    host, recorder = HOSTS[name].build(), QueryRecorder()
    ids = [20, 21, 62, 3, 30, 31, *HOSTS[name].video(2), 32, 63, 4, 40, 41]
    inputs = HOSTS[name].inputs([1, -2, 1])
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == HOSTS[name].placeholder).int() * 2
    prepare(host, inputs, recorder, tokenizer=tokenizer_for(name, template))
    assert torch.equal(recorder.queries[0], host.get_input_embeddings()(torch.tensor([30, 31, 32])))


def test_the_question_excludes_labels_even_without_a_template() -> None:
    host, recorder = HOSTS["qwen2_vl"].build(), QueryRecorder()
    inputs = HOSTS["qwen2_vl"].inputs([5, -4, 6])
    labels = labels_of(inputs, last=2)
    prepare(host, inputs | {"labels": labels}, recorder, tokenizer=tokenizer_for("qwen2_vl"))
    assert torch.equal(recorder.queries[0], words_of(host, inputs["input_ids"][0])[:-2])


def test_the_question_is_found_in_embeddings_and_excludes_shifted_labels() -> None:
    host, recorder = HOSTS["qwen2_vl"].build(), QueryRecorder()
    inputs = HOSTS["qwen2_vl"].inputs([5, -4, 6])
    embeds = host.get_input_embeddings()(inputs["input_ids"])
    shifted = torch.nn.functional.pad(labels_of(inputs, last=2), (0, 1), value=-100)[:, 1:]
    embedded = {**inputs, "input_ids": None, "inputs_embeds": embeds, "shift_labels": shifted}
    prepare(host, embedded, recorder, tokenizer=tokenizer_for("qwen2_vl"))
    assert torch.equal(recorder.queries[0], words_of(host, inputs["input_ids"][0])[:-2])


def test_a_call_overrides_attach_and_attach_overrides_the_prompt() -> None:
    host, recorder, one = HOSTS["llava_next_video"].build(), QueryRecorder(), torch.ones(1, 32)
    inputs = HOSTS["llava_next_video"].inputs([5, -4, 6], [9, -4, 3])
    tokenizer = tokenizer_for("llava_next_video")
    prompt = words_of(host, inputs["input_ids"][1])
    with framefold.attach(host, recorder, query=one, tokenizer=tokenizer):
        host(**inputs)
        host(**inputs, query=[2 * one, None])
        host.generate(**inputs, query="w9 w10", max_new_tokens=1)
    text = host.get_input_embeddings()(torch.tensor([9, 10]))
    assert len(recorder.queries) == 6
    assert all(map(torch.equal, recorder.queries, [one, one, 2 * one, prompt, text, text]))


def test_a_still_next_to_a_clip_has_no_question() -> None:
    tiny = HOSTS["internvl"]
    host, recorder = tiny.build(), QueryRecorder()
    inputs = tiny.inputs([2, -1, 2, -3, 4])
    with framefold.attach(host, recorder, query=[torch.ones(1, 32)]):
        host(**inputs, clips=[-1, 0, 0, 0])
    assert len(recorder.queries) == 1


def test_a_host_from_a_folder_uses_the_tokenizer_of_that_folder() -> None:
    host = LlavaOnevisionForConditionalGeneration.from_pretrained(TINYHOST).eval()
    recorder = QueryRecorder()
    tokenizer = query.tokenizer_of(host)
    question = tokenizer("which shape flashed first", add_special_tokens=False)["input_ids"]
    assert len(question) == 4 and tokenizer.unk_token_id not in question
    video = [host.config.video_token_id] * (16 * 2 + 1)
    with framefold.attach(host, recorder), torch.no_grad():
        host(input_ids=torch.tensor([video + question]), pixel_values_videos=torch.rand(1, 2, 3, 64, 64))
        assert torch.equal(recorder.queries[0], host.get_input_embeddings()(torch.tensor(question)))


def test_no_tokenizer_is_loaded_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "tokenizer_of", lambda model: pytest.fail("a tokenizer was loaded"))
    host, inputs = HOSTS["qwen3_vl"].build(), HOSTS["qwen3_vl"].inputs([5, -4, 6])
    with framefold.attach(host, framefold.build("uniform", 0.5)):
        host(**inputs)
    with framefold.attach(host, QueryRecorder(), query=torch.ones(2, 32)):
        host(**inputs)


CASES: dict[str, tuple[Any, str]] = {
    "no tokenizer": ({}, "query-aware.*not loaded from a folder.*query="),
    "an empty text": ({"query": " ", "tokenizer": tokenizer_for("qwen2_vl")}, "empty text"),
    "two queries for one video": ({"query": [torch.ones(1, 32)] * 2}, "one entry for each of the 1 videos, got 2"),
    "another width": ({"query": torch.ones(1, 8)}, "D = 32"),
    "a name as tokenizer": ({"tokenizer": "a name"}, "not a transformers tokenizer"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_unavailable_question_is_an_error_that_names_the_argument(case: str) -> None:
    host, inputs = HOSTS["qwen2_vl"].build(), HOSTS["qwen2_vl"].inputs([5, -4, 6])
    arguments, message = CASES[case]
    with framefold.attach(host, QueryRecorder(), **arguments), pytest.raises(InputError, match=message):
        host(**inputs)


def test_a_prompt_without_words_has_no_question() -> None:
    host, inputs = HOSTS["qwen2_vl"].build(), HOSTS["qwen2_vl"].inputs([-4])
    with pytest.raises(InputError, match="contains no question"):
        prepare(host, inputs, QueryRecorder(), tokenizer=tokenizer_for("qwen2_vl"))


def test_a_copy_of_an_attached_host_keeps_the_tokenizer() -> None:
    host, inputs = HOSTS["qwen2_vl"].build(), HOSTS["qwen2_vl"].inputs([5, -4, 6])
    framefold.attach(host, QueryRecorder(), tokenizer=tokenizer_for("qwen2_vl"))
    twin = copy.deepcopy(host)
    assert torch.equal(twin(**inputs).logits, host(**inputs).logits)
    assert twin.compressor.queries and twin.compressor is not host.compressor
