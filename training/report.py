"""Results files -> Markdown table and plots. Nothing here is typed in: every number comes from the cells."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ..adapters import Compressor
from ..adapters.errors import UnknownCompressorError
from ..adapters.folder import replace_file
from ..adapters.registry import get
from ..data.difficulty import name_of
from .plots import plot_accuracy
from .results import answers_of, read_cells
from .statistics import Answers, macro_interval, paired_difference, same_questions

Cell = dict[str, Any]
FULL, BASELINE = "identity", "st_simdiff"
WITH_LORA = " (LoRA)"  # behind the name of a row whose host runs with the adapter's LoRA
# Keeps the evidence of the question asked; keeps that of all events, whatever is asked.
ORACLES = ORACLE, EVENT_ORACLE = "oracle", "oracle_events"


def report(results: str) -> Path:
    """Write ``report.md`` and ``accuracy.png`` from a folder of results, and print the headline table.

    Args:
        results: the ``--out`` folder of ``framefold ablate``.

    Returns:
        Path of the report.

    Raises:
        ResultsError: no results, damaged ones, or such as cannot stand in one table.
    """
    out = Path(results)
    table = Table(read_cells(out))
    plot_accuracy(table.curves(), table.full, out / "accuracy.png")
    text = "\n\n".join(
        ["# Ablation", table.setting(), table.accuracy(), table.differences(), table.by_type(), table.cost()]
    )
    replace_file(out / "report.md", lambda beside: beside.write_text(text + "\n\n![accuracy](accuracy.png)\n"))
    print(f"{table.accuracy()}\n\n{table.differences()}\n\nreport: {out / 'report.md'}")
    return out / "report.md"


class Table:
    """Cells arranged as rows (compressors) by columns (budgets)."""

    def __init__(self, cells: list[Cell]) -> None:
        self.by_row: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
        tokens: dict[str, float] = {}
        for cell in cells:
            self.by_row[cell["compressor"]][_label(cell["budget"])].append(cell)
            if cell["compressor"] != FULL:
                tokens[_label(cell["budget"])] = cell["tokens"]
        self.full = self._full()
        rows = [name for name in self.by_row if name != FULL]
        self.budgets = sorted(tokens, key=lambda label: tokens[label], reverse=True)
        self.middle = self.budgets[max(0, len(self.budgets) - 2)] if self.budgets else ""
        self.rows = sorted(rows, key=self._rank, reverse=True)
        self.sample = cells[0]

    def _full(self) -> float | None:
        cells = [cell for group in self.by_row.get(FULL, {}).values() for cell in group]
        return answers_of(cells).macro if cells else None

    def _rank(self, name: str) -> tuple[bool, float]:
        smallest = self.answers(name, self.budgets[-1])
        return name in ORACLES, -1.0 if smallest is None else smallest.macro

    def answers(self, name: str, budget: str) -> Answers | None:
        """Answers of a row at a budget, None where it was not run."""
        cells = self.by_row.get(name, {}).get(budget)
        return answers_of(cells) if cells else None

    def curves(self) -> dict[str, list[tuple[float, float, float, float]]]:
        """Row -> [(tokens, accuracy, low, high)] in ascending tokens, for the plot."""
        curves = {}
        for name in self.rows:
            points = []
            for cells in sorted(self.by_row[name].values(), key=lambda cells: cells[0]["tokens"]):
                interval = macro_interval(answers_of(cells))
                points.append((cells[0]["tokens"], interval.value, interval.low, interval.high))
            curves[name] = points
        return curves

    def setting(self) -> str:
        """One paragraph: what was asked of which host."""
        s = self.sample["settings"]
        left_out = f" Left out of the headline: {', '.join(s['exclude'])}." if s["exclude"] else ""
        return (
            f"{self.sample['n']} questions about {s['videos']} held-out synthetic videos of {s['frames']} frames "
            f"({name_of(s['difficulty'])}, {s['style']} style), host `{s['host']}`. Accuracy is the mean over question "
            f"types, in percent, with the 95 % bootstrap interval over pairs of twins.{left_out} The "
            f"rows of a column hold exactly equal numbers of visual tokens."
        )

    def accuracy(self) -> str:
        """Markdown: accuracy of each row at each budget."""
        head = [f"{b} ({self._tokens(b)})" for b in self.budgets] or ["no budget"]
        lines = [_row("compressor", *head), _row(*["---"] * (len(head) + 1))]
        for name in self.rows:
            values = []
            for budget in self.budgets:
                answers = self.answers(name, budget)
                values.append("" if answers is None else _interval(macro_interval(answers)))
            lines.append(_row(name, *values))
        if self.full is not None:
            lines.append(_row("all tokens", f"{100 * self.full:.1f} (every column)", *[""] * (len(head) - 1)))
        return "\n".join(lines)

    def differences(self) -> str:
        """Markdown: paired differences in points: baseline to floor, trained to baselines, and the room to win.

        The room is from the oracle to keeping every event, and to the best training-free row of a column.
        """
        pairs = [(BASELINE, "uniform"), (BASELINE, "random"), *self._trained(), (ORACLE, EVENT_ORACLE)]
        lines = [_row("paired difference", *self.budgets), _row(*["---"] * (len(self.budgets) + 1))]
        rows = [(f"{a} - {b}", [self._difference(a, b, budget) for budget in self.budgets]) for a, b in pairs]
        free = {budget: self._best(budget, trained=False) for budget in self.budgets}
        trained = [self._difference(self._best(budget, trained=True), free[budget], budget) for budget in self.budgets]
        rows.append(("best trained - best training-free", trained))
        rows.append(
            ("oracle - best training-free", [self._difference(ORACLE, b, budget) for budget, b in free.items()])
        )
        return "\n".join([*lines, *(_row(title, *values) for title, values in rows if any(values))])

    def _difference(self, a: str, b: str, budget: str) -> str:
        one, other = self.answers(a, budget), self.answers(b, budget)
        if one is None or other is None or not same_questions(one, other):
            return ""
        return _interval(paired_difference(one, other), sign=True)

    def _best(self, budget: str, trained: bool) -> str:
        """The most accurate row of a column among those that were trained or were not, "" if there is none."""
        some = [name for name in self.rows if (cls := _class_of(name)) and cls.trainable == trained]
        scores = {name: answers.macro for name in some if (answers := self.answers(name, budget))}
        return max(scores, key=lambda name: scores[name], default="")

    def _trained(self) -> list[tuple[str, str]]:
        """Trained rows against the same without LoRA, their start or the two floors, and the baseline."""
        pairs = []
        for name in self.rows:
            cls = _class_of(name)
            if cls is not None and cls.trainable:
                start = (cls.counterpart,) if cls.counterpart else ("random", "uniform")
                pairs += [(name, other) for other in (name.removesuffix(WITH_LORA), *start, BASELINE) if other != name]
        return [pair for pair in dict.fromkeys(pairs) if pair[1] in self.by_row]

    def by_type(self) -> str:
        """Markdown: accuracy per question type at the smallest budget but one, in percent."""
        budget = self.middle
        table = {name: answers.by_type for name in self.rows if (answers := self.answers(name, budget))}
        types = sorted({kind for accuracies in table.values() for kind in accuracies})
        lines = [_row(f"at {budget}", *types), _row(*["---"] * (len(types) + 1))]
        lines += [_row(n, *[f"{100 * a[t]:.0f}" if t in a else "" for t in types]) for n, a in table.items()]
        return "\n".join(lines)

    def cost(self) -> str:
        """Markdown: what each row costs at the same budget, milliseconds per video on this machine."""
        budget = self.middle
        lines = [
            _row(f"at {budget}", "visual tokens entering the LM", "compressor ms", "prefill and answers ms"),
            _row(*["---"] * 4),
        ]
        for name in self.rows:
            for cell in self.by_row[name].get(budget, [])[: name != ORACLE]:  # which prefills once a question
                times = (f"{cell[key]:.2f}" for key in ("compressor_ms", "llm_ms"))
                lines.append(_row(name, f"{cell['tokens_entered']:.1f}", *times))
        return "\n".join(lines)

    def _tokens(self, budget: str) -> str:
        counts = {round(cell["tokens"]) for name in self.rows for cell in self.by_row[name].get(budget, [])}
        return f"{'/'.join(map(str, sorted(counts)))} tokens"


def _class_of(row: str) -> type[Compressor] | None:
    """The compressor of a row; None for oracles, and for what this installation does not know."""
    try:
        return get(row.removesuffix(WITH_LORA))
    except UnknownCompressorError:
        return None


def _row(*values: str) -> str:
    return f"| {' | '.join(values)} |"


def _label(budget: float | int) -> str:
    """Name of a column; 1 token and 1.0 of the tokens are two."""
    return f"{100 * budget:.10g} %" if isinstance(budget, float) else f"{budget} tokens"


def _interval(interval: Any, sign: bool = False) -> str:
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:{'+' if sign else ''}.1f} [{low:.1f}, {high:.1f}]"
