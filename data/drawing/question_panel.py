"""The questions of a contact sheet, written below each other in their colours (matplotlib, extra ``report``)."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from framefold.data.question import Question

PANEL = 700  # least width

CHIP, HIGH, LINE, PILL, BETWEEN = 30, 24, 29, 31, 24  # HIGH: of a rounded box; LINE, PILL: from one row to the next

USUAL = 2 * LINE + PILL + BETWEEN  # height of a question of one line each

LARGE, SMALL = 13.5, 11  # points


class Panel:
    """Grows downward from a corner of axes that are measured in pixels.

    Attributes:
        bottom: where the next question begins.
    """

    def __init__(self, axes: Axes, left: float, top: float, width: float) -> None:
        self.axes, self.left, self.right, self.bottom = axes, left, left + width, top
        canvas = axes.get_figure(root=True).canvas  # type: ignore[union-attr]
        assert isinstance(canvas, FigureCanvasAgg)
        self._renderer = canvas.get_renderer()

    def add(self, number: int, question: Question, color: str) -> None:
        """Type and frames of the evidence, the text, and the choices with the answer filled."""
        indent, right = self.left + CHIP + 10, self.right
        self._pill(self.left, str(number + 1), color, filled=True, width=CHIP)
        self._text(indent, question.type, color=color, weight="bold", fontsize=LARGE)
        frames = {box[0] for box in question.evidence}
        named = f"evidence: frame{'s' * (len(frames) > 1)} {spans(frames)}"
        where = self._text(right, named, color="0.4", ha="right")
        self._shorten(where, right - indent - 170)
        self.bottom += LINE
        for line in self._wrapped(question.text, right - indent):
            self._text(indent, line, fontsize=LARGE)
            self.bottom += LINE
        self._choices(question, color, indent, right)
        self.bottom += PILL + BETWEEN

    def _choices(self, question: Question, color: str, indent: float, right: float) -> None:
        # An answer that is none of the choices is a fault of the data; it is shown, not hidden.
        stray = () if question.answer in question.choices else (question.answer,)
        x = indent
        for choice in (*question.choices, *stray):
            width = self._width(choice) + 18
            if x > indent and x + width > right:
                x, self.bottom = indent, self.bottom + PILL
            self._pill(x, choice, color, filled=choice == question.answer, width=width)
            x += width + 6

    def _pill(self, x: float, text: str, color: str, filled: bool, width: float) -> None:
        """A word in a rounded box."""
        face, edge, ink = (color, color, "white") if filled else ("white", "0.75", "0.35")
        patch = FancyBboxPatch(
            (x, self.bottom),
            width,
            HIGH,
            boxstyle="round,pad=0,rounding_size=5",
            facecolor=face,
            edgecolor=edge,
            linewidth=1,
        )
        self.axes.add_patch(patch)
        weight = "bold" if filled else "normal"
        self.axes.text(
            x + width / 2, self.bottom + HIGH / 2, text, color=ink, weight=weight, fontsize=SMALL, ha="center",
            va="center_baseline",
        )  # fmt: skip

    def _text(self, x: float, text: str, **style: object) -> Text:
        look = {"fontsize": SMALL, "va": "center_baseline", "parse_math": False} | style
        return self.axes.text(x, self.bottom + HIGH / 2, text, **look)  # type: ignore[arg-type]

    def _width(self, text: str, **style: object) -> float:
        probe = Text(text=text, figure=self.axes.get_figure(root=True), fontsize=SMALL, weight="bold", parse_math=False)
        probe.update(style)
        return probe.get_window_extent(self._renderer).width

    def _wrapped(self, text: str, width: float) -> list[str]:
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self._width(longer, fontsize=LARGE, weight="normal") <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def _shorten(self, text: Text, width: float) -> None:
        """Cut a list of frames at a comma until it fits."""
        whole = text.get_text()
        while text.get_window_extent(self._renderer).width > width and "," in whole:
            whole = whole.rpartition(",")[0]
            text.set_text(f"{whole}, …")


def spans(frames: Iterable[int]) -> str:
    """Numbers in ascending order, runs of them as first-last: "3-5, 9"."""
    runs: list[list[int]] = []
    for frame in sorted(set(frames)):
        if runs and frame == runs[-1][-1] + 1:
            runs[-1][1:] = [frame]
        else:
            runs.append([frame])
    return ", ".join("-".join(map(str, run)) for run in runs)
