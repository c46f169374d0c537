"""The answer format is inferred from the chat template and the host's end tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from framefold.training.frozen_host.answer_format import AnswerFormat, infer_answer_format

LLAVA = """{% for m in messages %}{{ m.role.upper() }}: {% for p in m.content %}{% if p.type == 'video' %}<video>
{% else %}{{ p.text }}{% endif %}{% endfor %}{% if m.role == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""
QWEN = """{% for m in messages %}<im>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text or '<video>' }}{% endfor %}
{%- endif %}<end>
{% endfor %}{% if add_generation_prompt %}<im>assistant
{% endif %}"""
THINKS = QWEN.replace("<im>assistant\n", "<im>assistant\n<think>")
USER_ONLY = """{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}
{{- m.content[1].text }}{%- endfor %} Answer:"""


@pytest.mark.parametrize(
    ("template", "stops", "expected"),
    [
        (LLAVA, None, AnswerFormat(" ", (2,))),
        (QWEN, [2, 5], AnswerFormat("", (5,))),  # the template ends answers with 5
        (QWEN, 2, AnswerFormat("", (2,))),  # the host does not stop at the template's end
        (THINKS, [5], AnswerFormat("", (5,))),  # the prompt ends in a special token that no conversation contains
        (USER_ONLY, None, AnswerFormat(" ", (2,))),
    ],
    ids=["llava", "qwen", "other-end", "thinks", "user-only"],
)
def test_answers_are_written_as_the_chat_template_writes_them(
    template: str, stops: Any, expected: AnswerFormat
) -> None:
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
    assert infer_answer_format(processor, model) == expected
