"""Decode the token ids of a prompt to text without whitespace in which every token keeps its column.

Dimensions: L columns of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from framefold.errors import InputError

VISUAL_CHAR = "\N{OBJECT REPLACEMENT CHARACTER}"  # represents a run of placeholders

INCOMPLETE_CHAR = "\N{REPLACEMENT CHARACTER}"  # decoding of some, but not all, bytes of a character

REMEDY = "pass attach(..., query=...) or attach(..., tokenizer=processor.tokenizer)"

Word = tuple[int, int, int, int]  # first and end character, first and end column


@dataclass
class RowText:
    """A row of a prompt as text.

    Attributes:
        text: the text; special tokens as written, every run of placeholders as one VISUAL_CHAR.
        special: for each character, whether it belongs to a special token.
        words: the text tokens; tokens that share a character form one word.
        visuals: for each run of placeholders, its character, first and end column.
    """

    text: str = ""
    special: list[bool] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    visuals: list[tuple[int, int, int]] = field(default_factory=list)

    def visual_of(self, column: int) -> int:
        """Return the character of the run of placeholders that contains a column."""
        return next(at for at, first, end in self.visuals if first <= column < end)

    def plain_text(self, start: int, end: int) -> str:
        """Return the text between two characters without special tokens."""
        chars = zip(self.text[start:end], self.special[start:end], strict=True)
        return "".join(char for char, special in chars if not special)


@dataclass(frozen=True, eq=False)
class RowDecoder:
    """A tokenizer that decodes rows of prompts.

    Attributes:
        tokenizer: the tokenizer.
        specials: text of each special token by its id.
    """

    tokenizer: PreTrainedTokenizerBase
    specials: dict[int, str]
    texts: dict[tuple[int, ...], str] = field(default_factory=dict, repr=False)  # cache of decoded tokens

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> RowDecoder:
        """Find the special tokens of a tokenizer, or of the tokenizer of a processor.

        Raises:
            InputError: the argument is no tokenizer or processor.
        """
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise InputError(f"{type(tokenizer).__name__} is not a transformers tokenizer or processor: {REMEDY}")
        added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids = sorted(added.union(tokenizer.all_special_ids))
        return cls(tokenizer, dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)))

    def decode(self, ids: Sequence[int], visual: Sequence[bool]) -> RowText:
        """Return the text of a row.

        Args:
            ids: L token ids; ids unknown to the tokenizer have no text.
            visual: for each of the L columns, whether it is a placeholder.
        """
        known = len(self.tokenizer)
        plain = [not v and id not in self.specials and 0 <= id < known for id, v in zip(ids, visual, strict=True)]
        ends, row, pieces, at, column = [*visual, False], RowText(), [], 0, 0
        while column < len(ids):
            piece, size = VISUAL_CHAR, 1
            if visual[column]:
                size = ends.index(False, column) - column
                row.visuals.append((at, column, column + size))
            elif plain[column]:
                piece, size = self._piece(ids[column : column + 4], plain[column : column + 4])
                row.words.append((at, at + len(piece), column, column + size))
            else:
                piece = self.specials.get(ids[column], "")
            pieces.append(piece)
            row.special += [not (visual[column] or plain[column])] * len(piece)
            at, column = at + len(piece), column + size
        row.text = "".join(pieces)
        return row

    def _piece(self, ids: Sequence[int], plain: Sequence[bool]) -> tuple[str, int]:
        """Return the text of the next token and 1, or of the next few tokens that form a character and their number."""
        longest = len(list(takewhile(bool, plain)))  # a character has at most four bytes
        for size in range(1, longest + 1):
            some = tuple(ids[:size])
            if some not in self.texts:
                text = self.tokenizer.decode(list(some), skip_special_tokens=False, clean_up_tokenization_spaces=False)
                self.texts[some] = "".join(str(text).split())
            if INCOMPLETE_CHAR not in self.texts[some]:
                return self.texts[some], size
        return self.texts[(ids[0],)], 1
