"""The list of questions on a contact sheet (matplotlib, extra ``report``). Lengths are in pixels, fonts in points."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from framefold.data.question import Question

MIN_WIDTH = 700

NUMBER_WIDTH, BOX_HEIGHT, LINE_STEP, BOX_STEP, QUESTION_GAP = 30, 24, 29, 31, 24  # a step is from one row to the next

TYPICAL_HEIGHT = 2 * LINE_STEP + BOX_STEP + QUESTION_GAP  # of a question with one line of text and one of choices

LARGE, SMALL = 13.5, 11  # font sizes


class QuestionPanel:
    """A column of questions that grows downward.

    Args:
        axes: axes in pixels.
        left: left edge.
        top: upper edge.
        width: width of the column.

    Attributes:
        bottom: upper edge of the next question.
    """

    def __init__(self, axes: Axes, left: float, top: float, width: float) -> None:
        self.axes, self.left, self.right, self.bottom = axes, left, left + width, top
        canvas = axes.get_figure(root=True).canvas  # type: ignore[union-attr]
        assert isinstance(canvas, FigureCanvasAgg)
        self._renderer = canvas.get_renderer()

    def add(self, number: int, question: Question, color: str) -> None:
        """Add a question: its type, evidence frames, text, and choices, with the answer in a filled box."""
        indent, right = self.left + NUMBER_WIDTH + 10, self.right
        self._box(self.left, str(number + 1), color, filled=True, width=NUMBER_WIDTH)
        self._text(indent, question.type, color=color, weight="bold", fontsize=LARGE)
        frames = {box[0] for box in question.evidence}
        listed = f"evidence: frame{'s' * (len(frames) > 1)} {format_ranges(frames)}"
        self._shorten(self._text(right, listed, color="0.4", ha="right"), right - indent - 170)
        self.bottom += LINE_STEP
        for line in self._wrap(question.text, right - indent):
            self._text(indent, line, fontsize=LARGE)
            self.bottom += LINE_STEP
        self._choices(question, color, indent, right)
        self.bottom += BOX_STEP + QUESTION_GAP

    def _choices(self, question: Question, color: str, indent: float, right: float) -> None:
        # An answer that is not among the choices is an error in the data; show it anyway.
        missing = () if question.answer in question.choices else (question.answer,)
        x = indent
        for choice in (*question.choices, *missing):
            width = self._width(choice) + 18
            if x > indent and x + width > right:
                x, self.bottom = indent, self.bottom + BOX_STEP
            self._box(x, choice, color, filled=choice == question.answer, width=width)
            x += width + 6

    def _box(self, x: float, text: str, color: str, filled: bool, width: float) -> None:
        """Draw text in a rounded box."""
        face, edge, text_color = (color, color, "white") if filled else ("white", "0.75", "0.35")
        patch = FancyBboxPatch(
            (x, self.bottom),
            width,
            BOX_HEIGHT,
            boxstyle="round,pad=0,rounding_size=5",
            facecolor=face,
            edgecolor=edge,
            linewidth=1,
        )
        self.axes.add_patch(patch)
        weight = "bold" if filled else "normal"
        self.axes.text(
            x + width / 2, self.bottom + BOX_HEIGHT / 2, text, color=text_color, weight=weight, fontsize=SMALL,
            ha="center", va="center_baseline",
        )  # fmt: skip

    def _text(self, x: float, text: str, **style: object) -> Text:
        settings = {"fontsize": SMALL, "va": "center_baseline", "parse_math": False} | style
        return self.axes.text(x, self.bottom + BOX_HEIGHT / 2, text, **settings)  # type: ignore[arg-type]

    def _width(self, text: str, **style: object) -> float:
        figure = self.axes.get_figure(root=True)
        measured = Text(text=text, figure=figure, fontsize=SMALL, weight="bold", parse_math=False)
        measured.update(style)
        return measured.get_window_extent(self._renderer).width

    def _wrap(self, text: str, width: float) -> list[str]:
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self._width(longer, fontsize=LARGE, weight="normal") <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def _shorten(self, text: Text, width: float) -> None:
        """Remove the last entries of a list of frames until it fits."""
        listed = text.get_text()
        while text.get_window_extent(self._renderer).width > width and "," in listed:
            listed = listed.rpartition(",")[0]
            text.set_text(f"{listed}, …")


def format_ranges(frames: Iterable[int]) -> str:
    """Return frame numbers as text in ascending order, consecutive ones as a range: "3-5, 9"."""
    ranges: list[list[int]] = []
    for frame in sorted(set(frames)):
        if ranges and frame == ranges[-1][-1] + 1:
            ranges[-1][1:] = [frame]
        else:
            ranges.append([frame])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)
