"""Columns of the question in prompts as processors write them, with small tokenizers and templates of all kinds."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import socket
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from framefold.adapters.hosts.prompt.find_question import TurnMarkers, tokenizer_of
from framefold.errors import InputError
from tests.support.paths import TINYHOST

CORPUS = [
    "system You are a helpful assistant. user What happens in the video? assistant A red cube falls. seconds Frame",
    "USER: Who is the user here? ASSISTANT: the one who asks the assistant. User: Assistant: 0 1 2 3 4 5 6 7 8 9",
    "You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video.\n\nFrame from 00:00:",
]
SECONDS = r"<\d+\.\d seconds>"

# adds a default system prompt, as Qwen2-VL's; accepts parts or text
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<|vision_start|><|video_pad|>"
    "<|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# accepts only parts
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content[0].text + ' ' }}{% else %}"
    "{{ m.role.upper() + ': ' }}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text + ' ' }}{% endif %}"
    "{% endfor %}{% if m.role == 'assistant' %}</s>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# accepts only text; writes the system prompt inside the first turn; requires alternating turns
LLAMA = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}{% endif %}"
    "{% if m.role == 'user' %}<s>[INST] {% if loop.first %}{{ system }}{% endif %}{{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
# openers are plain words that follow special tokens
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}"
    "{% if m.content[0].type == 'image' %}:{% else %}: {% endif %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
QWEN += ["<|video_pad|>", "<|image_pad|>"]


def bpe(specials: list[str], template: str | None, *, bytes_: bool = True, vocab: int = 700) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer: byte-level as Qwen's, or with spaces encoded as in sentencepiece."""
    tokenizer = Tokenizer(models.BPE())
    if bytes_:
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
    else:
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if bytes_ else []
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    pad = next((token for token in specials if token in ("<|endoftext|>", "<pad>")), None)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, pad_token=pad)


@pytest.fixture(scope="module")
def qwen() -> PreTrainedTokenizerFast:
    return bpe(QWEN, CHATML)


@pytest.fixture(scope="module")
def vicuna() -> PreTrainedTokenizerFast:
    return bpe(["<s>", "</s>", "<pad>", "<video>"], VICUNA, bytes_=False)


@pytest.fixture(scope="module")
def glm() -> PreTrainedTokenizerFast:
    marks = ["<|image|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
    return bpe(["[gMASK]", "<sop>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", *marks], GLM)


@pytest.fixture(scope="module")
def smolvlm() -> PreTrainedTokenizerFast:
    return bpe(["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>"], SMOLVLM)


def ask(tokenizer, prompt: str, placeholder: str, frame_text: str = "", video: int = 0, videos: int = 1) -> str:
    """Return the question of a video in a prompt as text; all videos have the same number of placeholders."""
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    columns = TurnMarkers.from_tokenizer(tokenizer).question(
        ids, mask_of(tokenizer, ids, placeholder, video, videos), frame_text
    )
    assert columns.dtype == torch.int64 and bool((columns.diff() > 0).all())
    return tokenizer.decode(ids[columns]).strip()


def mask_of(tokenizer, ids: Tensor, placeholder: str, video: int = 0, videos: int = 1) -> Tensor:
    where = (ids == tokenizer.convert_tokens_to_ids(placeholder)).nonzero()[:, 0]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[where.chunk(videos)[video]] = True
    return mask


def chatml(*turns: tuple[str, str], answer: bool = True) -> str:
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + "<|im_start|>assistant\n" * answer


CLIP = "<|vision_start|>" + 4 * "<|video_pad|>" + "<|vision_end|>"
STAMPED = "".join(
    f"<{t} seconds><|vision_start|><|video_pad|><|video_pad|><|vision_end|>" for t in ("0.2", "1.2", "12.2")
)
SYSTEM = ("system", "You are a user of the video assistant.")


@pytest.mark.parametrize(
    "message, question",
    [
        (f"{CLIP}What happens here?", "What happens here?"),
        (f"What happens here? {CLIP}", "What happens here?"),
        (f"Look: {CLIP}\n\nWhat happens?\n", "Look:What happens?"),
        (f"{CLIP}Is the user a system, or does user\nassistant mean something?", None),
        (f"{CLIP}¿Qué sucede aquí? 这段视频里发生了什么？ 🎬🦊", None),
        (f"{CLIP} first line\n\n  second line ", "first line\n\n  second line"),
        (f"{CLIP}\n", ""),
        (CLIP, ""),
    ],
)
def test_the_text_next_to_the_video_is_the_question(qwen, message, question) -> None:
    expected = message.replace(CLIP, "") if question is None else question
    for before, answer in itertools.product([(), (SYSTEM,)], [True, False]):
        prompt = chatml(*before, ("user", message), answer=answer)
        assert ask(qwen, prompt, "<|video_pad|>") == expected, (before, answer)


def test_only_the_turn_with_the_video_counts(qwen) -> None:
    texts = ["How are you?", "Why is that?", "What now?"]
    for turn, expected in enumerate(texts):
        turns = [[("user", CLIP * (i == turn) + text), ("assistant", f"answer {i}")] for i, text in enumerate(texts)]
        prompt = chatml(SYSTEM, *(message for pair in turns for message in pair), answer=False)
        assert ask(qwen, prompt, "<|video_pad|>") == expected


def test_the_default_system_prompt_of_a_template_is_excluded(qwen) -> None:
    parts = [{"type": "video"}, {"type": "text", "text": "What happens?"}]
    prompt = qwen.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert "helpful" in prompt and ask(qwen, prompt, "<|video_pad|>") == "What happens?"


def test_the_answer_of_a_training_row_is_excluded(qwen) -> None:
    prompt = chatml(SYSTEM, ("user", f"{CLIP}What falls?"), ("assistant", "A red cube falls."), answer=False)
    assert ask(qwen, prompt, "<|video_pad|>") == "What falls?"


def test_padding_only_shifts_the_columns(qwen) -> None:
    ids = torch.tensor(qwen(chatml(("user", f"Look. {CLIP}What happens?")))["input_ids"])
    turns, pad = TurnMarkers.from_tokenizer(qwen), torch.full((5,), qwen.pad_token_id)
    alone = turns.question(ids, mask_of(qwen, ids, "<|video_pad|>"))
    assert len(alone) > 2
    for left, right in ((5, 0), (0, 5)):
        row = torch.cat([pad[:left], ids, pad[:right]])
        assert turns.question(row, mask_of(qwen, row, "<|video_pad|>")).tolist() == (alone + left).tolist()


def test_the_columns_are_exactly_those_of_the_words(qwen) -> None:
    prompt = chatml(SYSTEM, ("user", f"{CLIP}What happens?"))
    ids = qwen(prompt)["input_ids"]
    row = torch.tensor(ids)
    columns = TurnMarkers.from_tokenizer(qwen).question(row, mask_of(qwen, row, "<|video_pad|>")).tolist()
    first = ids.index(qwen.convert_tokens_to_ids("<|vision_end|>")) + 1
    end = ids.index(qwen.convert_tokens_to_ids("<|im_end|>"), first)
    assert columns == list(range(first, end)) and len(columns) > 1


@pytest.mark.parametrize("outer", ["", "<|vision_start|>"])
def test_timestamps_before_and_between_frames_are_excluded(qwen, outer) -> None:
    """Outer marks are those of the template around the video; the processor writes marked frames inside."""
    message = f"At <3.0 seconds> what? {outer}{STAMPED}{outer.replace('start', 'end')} And at <12.2 seconds> ?"
    prompt = chatml(("user", message))
    assert ask(qwen, prompt, "<|video_pad|>", SECONDS) == "At <3.0 seconds> what? And at <12.2 seconds> ?"
    assert "<0.2 seconds>" in ask(qwen, prompt, "<|video_pad|>")  # included without frame_text
    assert "1.2" not in ask(qwen, prompt, "<|video_pad|>").replace("12.2", "")  # text between frames never is


def test_two_videos_in_a_turn_have_the_same_question(qwen) -> None:
    prompt = chatml(SYSTEM, ("user", f"Compare {STAMPED} with {STAMPED} please."))
    found = [ask(qwen, prompt, "<|video_pad|>", SECONDS, video, 2) for video in (0, 1)]
    assert found == ["Comparewithplease."] * 2


def test_two_videos_in_two_turns_have_different_questions(qwen) -> None:
    turns = ("user", f"{CLIP}What falls?"), ("assistant", "A cube."), ("user", f"And here? {CLIP}")
    found = [ask(qwen, chatml(*turns), "<|video_pad|>", "", video, 2) for video in (0, 1)]
    assert found == ["What falls?", "And here?"]


def test_images_next_to_the_video_are_excluded(qwen) -> None:
    image = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
    prompt = chatml(("user", f"{image}What links this {CLIP} to it?"))
    assert ask(qwen, prompt, "<|video_pad|>") == "What links this to it?"


def test_ids_unknown_to_the_tokenizer_are_excluded(qwen) -> None:
    """Such as a placeholder that only the model's vocabulary contains."""
    ids = torch.tensor(qwen(chatml(("user", f"{CLIP}What happens?")))["input_ids"])
    turns = TurnMarkers.from_tokenizer(qwen)
    ids[mask := mask_of(qwen, ids, "<|video_pad|>")] = len(qwen) + 7
    expected = turns.question(ids, mask)
    assert qwen.decode(ids[expected]) == "What happens?"
    row = torch.cat([ids[: expected[2]], torch.tensor([len(qwen) + 8, -200]), ids[expected[2] :]])
    found = turns.question(row, torch.cat([mask[: expected[2]], torch.zeros(2, dtype=torch.bool), mask[expected[2] :]]))
    assert found.tolist() == expected[:2].tolist() + (expected[2:] + 2).tolist()


@pytest.mark.parametrize(
    "prompt, question",
    [
        ("USER: <video>\nWho asks the assistant? ASSISTANT:", "Who asks the assistant?"),
        ("<s>USER: Who asks? <video> ASSISTANT:", "Who asks?"),
        ("You are a helpful assistant. USER: <video> the user? ASSISTANT: the one.</s>", "the user?"),
        ("USER: Who? ASSISTANT: You.</s>USER: <video>What happens? ASSISTANT: A cube falls.</s>", "What happens?"),
        ("USER: <video>What happens? ASSISTANT: A cube.</s>USER: Who? ASSISTANT:", "What happens?"),
        ("<pad><pad><s>USER: <video> ASSISTANT:", ""),
    ],
)
def test_template_words_that_are_not_special_tokens_are_found(vicuna, prompt, question) -> None:
    """Words of this template are several tokens each, and spaces belong to the word after them."""
    assert ask(vicuna, prompt.replace("<video>", 3 * "<video>"), "<video>") == question


def test_a_token_across_the_border_of_the_template_is_excluded() -> None:
    merged = Tokenizer(
        models.WordLevel({"USER:tell": 0, "me": 1, "now?ASSISTANT:": 2, "[U]": 3, "<video>": 4}, unk_token="[U]")
    )
    merged.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    merged.add_special_tokens([AddedToken("<video>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merged, chat_template=VICUNA)
    assert ask(tokenizer, "USER:tell me <video> me now?ASSISTANT:", "<video>") == "me me"


def test_digits_after_frames_are_excluded_but_those_of_the_question_are_not(glm) -> None:
    frame = "<|begin_of_image|><|image|><|image|><|end_of_image|>"
    clip = f"<|begin_of_video|>{frame}0{frame}12<|end_of_video|>"
    prompt = f"[gMASK]<sop><|system|>\nBe brief.<|user|>\nIn second 3{clip}3 cubes?<|assistant|>\nYes.<|user|>\nWhy?"
    seconds = r"(?<=<\|end_of_image\|>)\d+(?=<\|(?:begin_of_image|end_of_video)\|>)"
    assert ask(glm, prompt, "<|image|>", seconds) == "In second 33 cubes?"
    picture = frame + "2 cubes, "  # images and frames have the same placeholder
    assert ask(glm, f"[gMASK]<sop><|user|>\n{picture}{clip}3 more", "<|image|>", seconds, 1, 3) == "2 cubes,3 more"


def test_the_next_answer_ends_a_turn_without_an_end_mark(glm) -> None:
    prompt = "[gMASK]<sop><|user|>\nHello<|assistant|>\nHello<|user|>\n<|image|>What falls?<|assistant|>\nA cube"
    assert ask(glm, prompt, "<|image|>") == "What falls?"


@pytest.mark.parametrize(
    "prompt, question",
    [
        ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<video>What falls? [/INST]", "What falls?"),
        ("<s>[INST] Hello [/INST] Hi </s><s>[INST] <video>What falls? [/INST] A cube </s>", "What falls?"),
        ("<s>[INST] <video>What falls? [/INST] A cube </s><s>[INST] Why? [/INST]", "What falls?"),
    ],
)
def test_a_system_prompt_inside_the_turn_is_excluded(prompt, question) -> None:
    assert ask(bpe(["<s>", "</s>", "<video>"], LLAMA), prompt, "<video>") == question


INTRO = (
    r"(You are provided the following series of [\w-]+ frames from a [\d:]+ \[H:MM:SS\] video\.)?"
    r"Frame from \d\d+:\d\d:"
)


def test_an_introduction_to_the_frames_is_excluded(smolvlm) -> None:
    frame = "<fake_token_around_image><global-img><image><image><fake_token_around_image>"
    clip = (
        "You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video.\n"
        f"\nFrame from 00:00:{frame}\nFrame from 00:01:{frame}\n\n"
    )
    for before in (
        "",
        "System: Be brief.<end_of_utterance>\n",
        "User: Hi<end_of_utterance>\nAssistant: Hi<end_of_utterance>\n",
    ):
        prompt = f"<|im_start|>{before}User: Is User: written here?{clip}Which frames?<end_of_utterance>\nAssistant:"
        assert ask(smolvlm, prompt, "<image>", INTRO) == "Is User: written here?Which frames?"


def test_numbers_of_frames_are_excluded(qwen) -> None:
    clip = "\n".join(f"Frame{i}: <|vision_start|><|video_pad|><|vision_end|>" for i in range(1, 4))
    prompt = chatml(("user", f"Which Frame?\n{clip}\nIs it Frame2: ?"))
    assert ask(qwen, prompt, "<|video_pad|>", r"Frame\d+:") == "Which Frame? Is it Frame2: ?".replace("? I", "?I")


def test_template_words_are_found_in_tokens_that_are_parts_of_characters() -> None:
    """Byte-level tokens of words beyond ASCII are parts of characters and cannot be decoded alone."""
    template = (
        "{% for m in messages %}{{ {'user': '问：', 'assistant': '答：'}[m.role] + m.content + '\n' }}{% endfor %}"
    )
    tokenizer = bpe(["<video>"], template, vocab=260)
    assert ask(tokenizer, "问：你好\n答：你好\n问：<video>谁？\n答：我", "<video>") == "谁？"


def test_without_a_template_the_entire_row_is_the_turn() -> None:
    words = ["<pad>", "<unk>", "<video>", "user", "what", "is", "red", "?", "assistant"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<unk>", "<video>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    assert ask(wrapped, "<pad> user <video> <video> what is red ?", "<video>") == "user what is red ?"


@pytest.mark.parametrize("question", ["", "what was the color in the first flash ?"])
def test_the_question_to_the_shipped_host_is_found(question) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINYHOST)
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    for end in ([], [{"role": "assistant", "content": "red"}]):
        prompt = tokenizer.apply_chat_template(chat + end, tokenize=False, add_generation_prompt=not end)
        assert ask(tokenizer, prompt.replace("<video>", "<video><video>"), "<video>") == question


def test_the_template_of_a_processor_takes_precedence_over_its_tokenizer(qwen) -> None:
    processor = SimpleNamespace(tokenizer=qwen, chat_template="{{ 'ASK ' + messages[-1].content + ' SAY' }}")
    ids = torch.tensor(qwen(f"ASK {CLIP}What? SAY user")["input_ids"])
    columns = TurnMarkers.from_tokenizer(processor).question(ids, mask_of(qwen, ids, "<|video_pad|>"))
    assert qwen.decode(ids[columns]) == "What?"


REFUSE = "{% if 'assistant' in messages | map(attribute='role') %}{{ raise_exception('no') }}{% endif %}"


def test_a_template_that_refuses_answers_is_supported() -> None:
    """Its default system prompt is not mistaken for part of the turn's opener."""
    tokenizer = bpe(QWEN, REFUSE + CHATML)
    for prompt in (chatml(("user", f"{CLIP}What?")), chatml(("system", "Be brief."), ("user", f"{CLIP}What?"))):
        assert ask(tokenizer, prompt, "<|video_pad|>") == "What?"
    tokenizer = bpe(["<video>"], REFUSE + VICUNA)
    assert ask(tokenizer, "USER: <video>What? ASSISTANT: That.", "<video>") == "What?"


def test_punctuation_and_letters_that_turns_share_are_not_borders() -> None:
    template = (
        "{% for m in messages %}{{ ('Q%d: ' % loop.index if m.role == 'user' else 'Answer: ') + m.content + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
    )
    prompt = "Q1: At 3:15, <video> is it B: Aware?\nA:"
    assert ask(bpe(["<video>"], template), prompt, "<video>") == "At 3:15, is it B: Aware?"


def test_a_turn_without_an_answer_ends_at_its_end_mark(qwen) -> None:
    prompt = chatml(("user", f"{CLIP}What falls?"), ("user", "And why?"))
    assert ask(qwen, prompt, "<|video_pad|>") == "What falls?"


def test_copies_find_the_same_question(qwen) -> None:
    """Attached models can be copied and pickled."""
    turns, ids = TurnMarkers.from_tokenizer(qwen), torch.tensor(qwen(chatml(("user", f"{CLIP}What?")))["input_ids"])
    video = mask_of(qwen, ids, "<|video_pad|>")
    for twin in (copy.deepcopy(turns), pickle.loads(pickle.dumps(turns))):
        assert qwen.decode(ids[twin.question(ids, video)]) == "What?"


def test_invalid_tokenizers_and_templates_are_refused(qwen) -> None:
    with pytest.raises(InputError, match="not a transformers tokenizer"):
        TurnMarkers.from_tokenizer("Qwen/Qwen2-VL-7B-Instruct")
    for template in ("{{ raise_exception('no') }}", "nothing of the message", "{{ broken"):
        with pytest.raises(InputError, match="cannot render a user message"):
            TurnMarkers.from_tokenizer(SimpleNamespace(tokenizer=qwen, chat_template=template))


def test_arguments_of_a_wrong_shape_are_refused(qwen) -> None:
    turns, ids = TurnMarkers.from_tokenizer(qwen), torch.arange(4)
    some = torch.tensor([False, True, False, False])
    for wrong in ((ids[None], some[None]), (ids, some[:3]), (ids, some.long()), (ids, torch.zeros_like(some))):
        with pytest.raises(InputError, match="with at least one placeholder"):
            turns.question(*wrong)
    with pytest.raises(InputError, match="not a regular expression"):
        turns.question(ids, some, "(")


def model_from(name: str, commit: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(name_or_path=name, config=SimpleNamespace(_commit_hash=commit))


def test_the_tokenizer_of_a_folder_is_loaded_once(qwen, tmp_path) -> None:
    qwen.save_pretrained(tmp_path)
    found = tokenizer_of(model_from(str(tmp_path)))
    assert found.get_vocab() == qwen.get_vocab() and found.chat_template == CHATML
    assert tokenizer_of(model_from(str(tmp_path))) is found


def test_the_tokenizer_of_a_repository_is_loaded_from_the_cache_at_the_models_revision(
    qwen, vicuna, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--model"
    for commit, tokenizer in (("1" * 40, qwen), ("2" * 40, vicuna)):
        tokenizer.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("2" * 40)
    for commit, tokenizer in (("1" * 40, qwen), ("2" * 40, vicuna), (None, vicuna)):
        found = tokenizer_of(model_from("somebody/model", commit))
        assert found.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(InputError, match="no tokenizer can be loaded"):
        tokenizer_of(model_from("somebody/model", "3" * 40))


def test_the_template_of_an_older_processor_is_read(qwen, tmp_path) -> None:
    bpe(QWEN, None).save_pretrained(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))
    found = tokenizer_of(model_from(str(tmp_path)))
    assert ask(found, chatml(SYSTEM, ("user", f"{CLIP}What?")), "<|video_pad|>") == "What?"


@pytest.mark.parametrize("name", ["", "missing", "folder", "somebody/some-model-that-is-not-here"])
def test_a_model_without_a_tokenizer_is_refused_without_network(name, tmp_path, monkeypatch) -> None:
    tries: list[object] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: tries.append(args))
    monkeypatch.setattr(socket.socket, "connect", lambda _, at: tries.append(at))
    (tmp_path / "folder").mkdir()
    place = str(tmp_path / name) if name in ("missing", "folder") else name
    with pytest.raises(InputError, match=r"attach\(\.\.\., query=\.\.\.\) or attach\(\.\.\., tokenizer="):
        tokenizer_of(model_from(place, "0" * 40))
    assert tries == []


def test_no_code_from_a_folder_is_executed(qwen, tmp_path) -> None:
    qwen.save_pretrained(tmp_path)
    trace = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    with pytest.raises(InputError, match="no tokenizer can be loaded"):
        tokenizer_of(model_from(str(tmp_path)))
    assert not trace.exists()
