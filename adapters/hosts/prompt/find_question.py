"""Which columns of a prompt are the question about a video, found from its ids alone.

What a chat template puts around a user's message is looked for in the text of the ids. Tokens merge across the borders
between template and message, and tokenizers mark spaces in ways of their own, so text has no whitespace here.
Dimensions: L columns of a row, Q columns of its question.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from framefold.errors import InputError

from .chat_template import ChatTemplate, Opener

VISUAL_CHAR = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for a run of placeholders

INCOMPLETE_CHAR = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of a part of a character

REMEDY = "pass attach(..., query=...) or attach(..., tokenizer=processor.tokenizer)"

Word = tuple[int, int, int, int]  # first and end character, first and end column

Patterns = tuple[re.Pattern[str], re.Pattern[str]]


@dataclass
class _Row:
    """A row as text.

    Attributes:
        text: special tokens as they are written, every run of placeholders as one VISUAL.
        special: for each character, whether it is of a special token.
        words: the tokens that are text; those that share a character make one word.
        visuals: of each run of placeholders its character, first and end column.
    """

    text: str = ""
    special: list[bool] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    visuals: list[tuple[int, int, int]] = field(default_factory=list)

    def visual_of(self, column: int) -> int:
        """Character that stands for the run of placeholders around a column."""
        return next(at for at, first, end in self.visuals if first <= column < end)

    def opener_end(self, opener: Opener, before: int) -> int:
        """Where the last occurrence of an opener before a character ends; 0 if there is none."""
        at = self.text.rfind(opener.text, 0, before)
        while at > 0 and opener.after_special and not self.special[at - 1]:
            at = self.text.rfind(opener.text, 0, at + len(opener.text) - 1)
        return at + len(opener.text) if at >= 0 else 0


@dataclass(frozen=True, eq=False)
class TurnMarkers:
    """What a chat template puts around a user's message, and the tokenizer that reads it in ids."""

    tokenizer: PreTrainedTokenizerBase
    specials: dict[int, str]
    openers: tuple[Opener, ...] = ()
    closers: tuple[str, ...] = ()
    texts: dict[tuple[int, ...], str] = field(default_factory=dict, repr=False)  # of tokens met before

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> TurnMarkers:
        """Learn the turns of a tokenizer's chat template, or of a processor's; without one a row is a single turn.

        Raises:
            InputError: no tokenizer, or a template that cannot write a single message of a user.
        """
        source = getattr(tokenizer, "chat_template", None)
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise InputError(f"a {type(tokenizer).__name__} is no transformers tokenizer or processor: {REMEDY}")
        added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids = sorted(added.union(tokenizer.all_special_ids))
        specials = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
        source = source or tokenizer.chat_template
        source = source.get("default") if isinstance(source, dict) else source
        if not source:
            return cls(tokenizer, specials)
        template = ChatTemplate(tokenizer, source, specials.values())
        if not template.render("A"):
            raise InputError(f"the chat template of {tokenizer.name_or_path!r} cannot write a user's message: {REMEDY}")
        return cls(tokenizer, specials, template.openers(), template.closers())

    def question(self, ids: Tensor, video: Tensor, frame_text: str = "") -> Tensor:
        """Columns of the text beside a video, in the user's turn that holds it.

        Left out are the template, special tokens (so also padding and unknown words), what lies between the first and
        the last placeholder of the video, and blank tokens at the ends of what is left. A row without the turn's opener
        or closer is taken from its start or to its end.

        Args:
            ids: (L,) one row of a prompt.
            video: (L,) bool, the placeholders of this video.
            frame_text: regular expression of what the processor writes right before or after a frame; special tokens
                may lie between. It meets text without whitespace, so its own whitespace does not count; special tokens
                stand in that text as they are written, for looking ahead and behind.

        Returns:
            (Q,) int64, ascending; empty without a question.

        Raises:
            InputError: misshapen arguments, no placeholder, or a broken ``frame_text``.
        """
        if ids.ndim != 1 or video.shape != ids.shape or video.dtype != torch.bool or not bool(video.any()):
            raise InputError(
                f"ids (L,) and video (L,) bool with a placeholder are needed, got {tuple(ids.shape)} of {ids.dtype} and"
                f" {tuple(video.shape)} of {video.dtype}"
            )
        row = self._row(ids.tolist(), torch.isin(ids, ids[video].unique()).tolist())
        first, last = (row.visual_of(column) for column in video.nonzero()[[0, -1], 0].tolist())
        start = max((row.opener_end(opener, first) for opener in self.openers), default=0)
        stops = [at for closer in self.closers if (at := row.text.find(closer, last)) >= 0]
        stop = min(stops, default=len(row.text))
        out = bytearray(len(row.text))
        for begin, end in [(first, last + 1), *_frame_spans(row, _patterns(frame_text))]:
            out[begin:end] = b"\1" * (end - begin)
        words = [word for word in row.words if start <= word[0] and word[1] <= stop and not any(out[word[0] : word[1]])]
        return torch.tensor(list(_columns(words)), dtype=torch.long, device=ids.device)

    def _row(self, ids: list[int], visual: list[bool]) -> _Row:
        known = len(self.tokenizer)
        plain = [not v and id not in self.specials and 0 <= id < known for id, v in zip(ids, visual, strict=True)]
        ends, row, pieces, at, column = [*visual, False], _Row(), [], 0, 0
        while column < len(ids):
            piece, size = VISUAL_CHAR, 1
            if visual[column]:
                size = ends.index(False, column) - column
                row.visuals.append((at, column, column + size))
            elif plain[column]:
                piece, size = self._piece(ids[column : column + 4], plain[column : column + 4])
                row.words.append((at, at + len(piece), column, column + size))
            else:
                piece = self.specials.get(ids[column], "")  # an id that only the model knows is no text
            pieces.append(piece)
            row.special += [not (visual[column] or plain[column])] * len(piece)
            at, column = at + len(piece), column + size
        row.text = "".join(pieces)
        return row

    def _piece(self, ids: list[int], plain: list[bool]) -> tuple[str, int]:
        """Text of the next token, or of the next few where one is a part of a character, and how many they are."""
        longest = len(list(takewhile(bool, plain)))  # a character has at most four bytes
        for size in range(1, longest + 1):
            some = tuple(ids[:size])
            if some not in self.texts:
                text = self.tokenizer.decode(list(some), skip_special_tokens=False, clean_up_tokenization_spaces=False)
                self.texts[some] = "".join(str(text).split())
            if INCOMPLETE_CHAR not in self.texts[some]:
                return self.texts[some], size
        return self.texts[(ids[0],)], 1


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights that a model was loaded from: from this machine only, and no code out of it.

    Raises:
        InputError: the model came from nowhere, or no tokenizer is there.
    """
    if not model.name_or_path:
        raise InputError(f"this {type(model).__name__} was loaded from nowhere, so it has no tokenizer: {REMEDY}")
    return _load(str(model.name_or_path), getattr(model.config, "_commit_hash", None))


@functools.lru_cache(maxsize=8)
def _load(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    try:
        folder = _folder(name, revision)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        legacy = folder / "chat_template.json"  # of older processors; tokenizers do not read it
        if legacy.is_file():
            tokenizer.chat_template = json.loads(legacy.read_text(encoding="utf-8"))["chat_template"]
    except Exception as error:  # files of anyone's making: the libraries raise whatever they stumble over
        raise InputError(f"there is no tokenizer to load for {name!r} on this machine ({error}): {REMEDY}") from error
    return tokenizer


def _folder(name: str, revision: str | None) -> Path:
    """The folder of a name. Looked up by hand: huggingface_hub goes out even when it is told to read its cache only."""
    if Path(name).is_dir():
        return Path(name)
    for file in ("tokenizer_config.json", "tokenizer.json"):
        if isinstance(found := try_to_load_from_cache(name, file, revision=revision), str):
            return Path(found).parent
    raise FileNotFoundError("neither a folder nor in the cache of the Hub")


@functools.cache
def _patterns(frame_text: str) -> Patterns:
    """For the text that ends at a frame, and for the text that begins there."""
    frame_text = frame_text or "(?!)"  # matches nothing
    try:
        return re.compile(f"(?:{frame_text}\n)\\Z", re.VERBOSE), re.compile(frame_text, re.VERBOSE)
    except re.error as error:
        raise InputError(f"frame_text {frame_text!r} is no regular expression: {error}") from None


def _frame_spans(row: _Row, patterns: Patterns) -> Iterator[tuple[int, int]]:
    """(first, end) characters of what the processor wrote around frames, those of other videos too."""
    last = 0
    for at, _, _ in row.visuals:
        before, after = at, at + 1
        while before > 0 and row.special[before - 1]:
            before -= 1
        while after < len(row.text) and row.special[after]:
            after += 1
        found = patterns[0].search(row.text, last, before), patterns[1].match(row.text, after)
        yield from (match.span() for match in found if match)
        last = at + 1


def _columns(words: Iterable[Word]) -> Iterator[int]:
    """Columns of words, less the blank ones at both ends of every run of columns."""
    runs: list[list[Word]] = []
    for word in words:
        if not runs or runs[-1][-1][3] != word[2]:
            runs.append([])
        runs[-1].append(word)
    for run in runs:
        full = [place for place, (first, end, _, _) in enumerate(run) if end > first]
        for _, _, column, past in run[full[0] : full[-1] + 1] if full else ():
            yield from range(column, past)
