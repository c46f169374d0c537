"""Find the columns of a prompt that contain the question about a video, from its token ids.

The ids are decoded, and the text is searched for what the chat template writes around a user's message. Tokens may
merge across the borders between template and message, and tokenizers encode spaces differently; all text in this module
is therefore without whitespace.

Dimensions: L columns of a row, Q columns of its question.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from framefold.errors import InputError

from .chat_template import ChatTemplate, Opener
from .row_text import REMEDY, RowDecoder, RowText, Word

Patterns = tuple[re.Pattern[str], re.Pattern[str]]


@dataclass(frozen=True, eq=False)
class TurnMarkers:
    """Text that a chat template writes around a user's message, and the decoder of prompts."""

    decoder: RowDecoder
    openers: tuple[Opener, ...] = ()
    closers: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that decodes prompts."""
        return self.decoder.tokenizer

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> TurnMarkers:
        """Find the turn markers of the chat template of a tokenizer or processor.

        Without a template, a row is treated as a single turn.

        Raises:
            InputError: the argument is no tokenizer or processor, or the template cannot render one user message.
        """
        source = getattr(tokenizer, "chat_template", None)
        decoder = RowDecoder.from_tokenizer(tokenizer)
        tokenizer = decoder.tokenizer
        source = source or tokenizer.chat_template
        source = source.get("default") if isinstance(source, dict) else source
        if not source:
            return cls(decoder)
        template = ChatTemplate(tokenizer, source, decoder.specials.values())
        if not template.render("A"):
            raise InputError(f"the chat template of {tokenizer.name_or_path!r} cannot render a user message: {REMEDY}")
        return cls(decoder, template.openers(), template.closers())

    def question(self, ids: Tensor, video: Tensor, frame_text: str = "") -> Tensor:
        """Return the columns of the text in the user's turn that contains a video.

        Excluded are the template, special tokens (and with them padding and unknown words), everything between the
        first and the last placeholder of the video, and blank tokens at the ends of the remaining text. If the turn's
        opener or closer is missing, the turn extends to the start or the end of the row.

        Args:
            ids: (L,) one row of a prompt.
            video: (L,) bool, the placeholders of this video.
            frame_text: regular expression of the text that the processor writes right before or after a frame, with
                only special tokens between. It is matched against text without whitespace, so whitespace in it is
                ignored. Special tokens appear in that text as written, for lookahead and lookbehind.

        Returns:
            (Q,) int64 columns, ascending; empty if there is no question.

        Raises:
            InputError: arguments have a wrong shape, there is no placeholder, or ``frame_text`` is invalid.
        """
        if ids.ndim != 1 or video.shape != ids.shape or video.dtype != torch.bool or not bool(video.any()):
            raise InputError(
                "ids must be (L,) and video (L,) bool with at least one placeholder, got"
                f" {tuple(ids.shape)} {ids.dtype} and {tuple(video.shape)} {video.dtype}"
            )
        row = self.decoder.decode(ids.tolist(), torch.isin(ids, ids[video].unique()).tolist())
        first, last = (row.visual_of(column) for column in video.nonzero()[[0, -1], 0].tolist())
        start = max((_opener_end(row, opener, first) for opener in self.openers), default=0)
        stops = [at for closer in self.closers if (at := row.text.find(closer, last)) >= 0]
        stop = min(stops, default=len(row.text))
        excluded = bytearray(len(row.text))
        for begin, end in [(first, last + 1), *_frame_spans(row, _patterns(frame_text))]:
            excluded[begin:end] = b"\1" * (end - begin)
        words = [w for w in row.words if start <= w[0] and w[1] <= stop and not any(excluded[w[0] : w[1]])]
        return torch.tensor(list(_columns(words)), dtype=torch.long, device=ids.device)


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer next to the weights that a model was loaded from.

    It is loaded from this machine only, and no code from its folder is executed.

    Raises:
        InputError: the model was not loaded from a folder or the Hub, or there is no tokenizer.
    """
    if not model.name_or_path:
        raise InputError(
            f"this {type(model).__name__} was not loaded from a folder or the Hub, so it has no tokenizer: {REMEDY}"
        )
    return load_tokenizer(str(model.name_or_path), getattr(model.config, "_commit_hash", None))


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder, or of a Hub id in the cache on this machine.

    Raises:
        InputError: there is no tokenizer, or it is damaged.
    """
    try:
        folder = _folder(name, revision)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        legacy = folder / "chat_template.json"  # written by older processors; tokenizers do not read it
        if legacy.is_file():
            tokenizer.chat_template = json.loads(legacy.read_text(encoding="utf-8"))["chat_template"]
    except Exception as error:  # untrusted files: the libraries may raise anything
        raise InputError(f"no tokenizer can be loaded for {name!r} on this machine ({error}): {REMEDY}") from error
    return tokenizer


def _folder(name: str, revision: str | None) -> Path:
    """Return the folder of a name.

    The cache is searched here, because huggingface_hub uses the network even when asked to read only its cache.
    """
    if Path(name).is_dir():
        return Path(name)
    for file in ("tokenizer_config.json", "tokenizer.json"):
        if isinstance(found := try_to_load_from_cache(name, file, revision=revision), str):
            return Path(found).parent
    raise FileNotFoundError("it is neither a folder nor in the cache of the Hub")


@functools.cache
def _patterns(frame_text: str) -> Patterns:
    """Return the patterns for text that ends before a frame and for text that begins after one."""
    frame_text = frame_text or "(?!)"  # matches nothing
    try:
        return re.compile(f"(?:{frame_text}\n)\\Z", re.VERBOSE), re.compile(frame_text, re.VERBOSE)
    except re.error as error:
        raise InputError(f"frame_text {frame_text!r} is not a regular expression: {error}") from None


def _opener_end(row: RowText, opener: Opener, before: int) -> int:
    """Return the end of the last occurrence of an opener before a character, or 0 if there is none."""
    at = row.text.rfind(opener.text, 0, before)
    while at > 0 and opener.after_special and not row.special[at - 1]:
        at = row.text.rfind(opener.text, 0, at + len(opener.text) - 1)
    return at + len(opener.text) if at >= 0 else 0


def _frame_spans(row: RowText, patterns: Patterns) -> Iterator[tuple[int, int]]:
    """Yield (first, end) characters of the text that the processor wrote next to frames, also of other videos."""
    last = 0
    for at, _, _ in row.visuals:
        before, after = at, at + 1
        while before > 0 and row.special[before - 1]:
            before -= 1
        while after < len(row.text) and row.special[after]:
            after += 1
        matches = patterns[0].search(row.text, last, before), patterns[1].match(row.text, after)
        yield from (match.span() for match in matches if match)
        last = at + 1


def _columns(words: Iterable[Word]) -> Iterator[int]:
    """Yield the columns of words, without blank words at both ends of every run of columns."""
    runs: list[list[Word]] = []
    for word in words:
        if not runs or runs[-1][-1][3] != word[2]:
            runs.append([])
        runs[-1].append(word)
    for run in runs:
        filled = [index for index, (first, end, _, _) in enumerate(run) if end > first]
        for _, _, column, stop in run[filled[0] : filled[-1] + 1] if filled else ():
            yield from range(column, stop)
