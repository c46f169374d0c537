"""Results of an ablation by method and budget, with intervals and comparisons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from framefold.adapters.base.untrained import UNTRAINED_SUFFIX
from framefold.adapters.pretrained.card import budget_text
from framefold.errors import ResultsError
from framefold.evaluation.metrics.answers import are_open
from framefold.evaluation.metrics.significance import Comparison, contributions, discordant, holm, mcnemar, sign_flip
from framefold.evaluation.metrics.statistics import (
    Answers,
    Interval,
    macro_interval,
    paired_difference,
    same_questions,
    type_intervals,
)
from framefold.evaluation.results.left_out import LeftOut
from framefold.evaluation.results.measure import Measure, Readings
from framefold.evaluation.results.result_files import Result, count_answers, mean_of_known, stored_number
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX, FULL, ORACLES, REFERENCES, RESIZE
from framefold.evaluation.views.answer_views import answer_view
from framefold.messages import nearest

from .methods import baselines, class_of

Condition = Callable[[str], bool]  # of the name of a method
Curve = list[tuple[float, float, float, float]]  # (x, accuracy, low, high), accuracies 0 to 1


class ResultTable:
    """Results of an ablation by method and budget.

    Args:
        results: results that can be compared.
        baseline: method that the others are compared with; None for the strongest baseline that there is.
        left_out: methods at budgets that were not run.

    Attributes:
        results: all results.
        by_method: method -> label of the budget -> results, one per seed.
        left_out: (method, label of the budget) -> why it was not run.
        methods: names of the methods, oracles first, then by descending accuracy at the smallest budget; without those
            that have no budget, such as all tokens.
        budgets: labels of the budgets, the largest first.
        second_smallest: label of the second smallest budget, or of the only one; "" if there is none.
        baseline: method that the others are compared with; None if no baseline was run.
        sample: the first result, for what all results have in common.

    Raises:
        ResultsError: there is no method of that name.
    """

    def __init__(self, results: list[Result], baseline: str | None = None, left_out: Sequence[LeftOut] = ()) -> None:
        self.results, self.sample = results, results[0]
        by_method: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
        tokens: dict[str, float] = {}
        for result in sorted(results, key=_has_equal_flops):  # budgets are ranked by their number of tokens
            by_method[result["compressor"]][budget_text(result["budget"])].append(result)
            if result["compressor"] not in REFERENCES:
                tokens.setdefault(budget_text(result["budget"]), result["tokens"])
        self.left_out = {(one.method, one.label): one for one in left_out}
        for one in left_out:
            by_method.setdefault(one.method, defaultdict(list))
            tokens.setdefault(one.label, one.tokens)
        self.by_method = {method: dict(budgets) for method, budgets in by_method.items()}
        self._answers: dict[tuple[str, str], Answers | None] = {}
        self._views: dict[tuple[str, str, str], Interval | None] = {}
        self._intervals: dict[tuple[str, str], dict[str | None, Interval]] = {}
        self.budgets = sorted(tokens, key=lambda budget: tokens[budget], reverse=True)
        self.second_smallest = self.budgets[max(0, len(self.budgets) - 2)] if self.budgets else ""
        self.methods = sorted((name for name in self.by_method if name not in REFERENCES), key=self._rank, reverse=True)
        if baseline is not None and baseline not in self.methods:
            raise ResultsError(f"no method {baseline!r} to compare with{nearest(baseline, self.methods)}")
        self.baseline = baseline or next((name for name in baselines() if name in self.methods), None)

    def _rank(self, method: str) -> tuple[bool, float]:
        smallest = self.answers(method, self.budgets[-1])
        return method in ORACLES, -1.0 if smallest is None else smallest.macro

    def kind(self, method: str) -> str:
        """Return "oracle", "untrained", "trained" (with an adapter) or "training-free"."""
        if method in ORACLES or method.removesuffix(EQUAL_FLOPS_SUFFIX).endswith(UNTRAINED_SUFFIX):
            return "oracle" if method in ORACLES else "untrained"
        trained = [one["settings"]["adapter"] is not None for ones in self.by_method[method].values() for one in ones]
        trained += [one.is_trained for one in self.left_out.values() if one.method == method]
        return "trained" if trained[0] else "training-free"

    @cached_property
    def full_results(self) -> list[Result]:
        """Results of all tokens."""
        return [result for results in self.by_method.get(FULL, {}).values() for result in results]

    @cached_property
    def full_answers(self) -> Answers | None:
        """Answers with all tokens; None if they were not run."""
        return count_answers(self.full_results) if self.full_results else None

    @property
    def full_accuracy(self) -> float | None:
        """Accuracy with all tokens, 0 to 1; None if they were not run."""
        return self.full_answers.macro if self.full_answers is not None else None

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Question types of the headline."""
        return count_answers(self.results[:1]).types

    def results_of(self, method: str, budget: str) -> list[Result]:
        """Return the results of a method at a budget, one per seed; none if it was not run."""
        return self.by_method.get(method, {}).get(budget, [])

    def answers(self, method: str, budget: str) -> Answers | None:
        """Return the answers of a method at a budget; None if it was not run."""
        if (method, budget) not in self._answers:
            results = self.results_of(method, budget)
            self._answers[method, budget] = count_answers(results) if results else None
        return self._answers[method, budget]

    def interval(self, method: str, budget: str, kind: str | None = None) -> Interval | None:
        """Return the accuracy of a method at a budget; None if it was not run.

        Args:
            method: name of the method.
            budget: label of the budget.
            kind: question type; None for the mean over types.
        """
        answers, key = self.answers(method, budget), (method, budget)
        if answers is None:
            return None
        if key not in self._intervals:
            intervals: dict[str | None, Interval] = {None: macro_interval(answers)}
            self._intervals[key] = intervals | dict(type_intervals(answers).items())
        return self._intervals[key][kind]

    def tokens(self, budget: str) -> list[int]:
        """Return the different numbers of kept tokens per video at a budget: one, if all videos are equally long.

        Methods whose numbers may be smaller, because they act inside the language model or have equal FLOPs instead of
        equal tokens, are left out, unless there are no others.
        """
        results = [one for method in self.methods for one in self.results_of(method, budget)]
        equal = [one for one in results if "tokens_mean" not in one["cost"]]
        equal = equal or [one for one in results if not _has_equal_flops(one)] or results
        return sorted({round(one["tokens"]) for one in equal})

    def left_out_text(self, method: str, budget: str) -> str:
        """Return why a method was not run at a budget, for a cell of a table; "" if it was run or not asked for."""
        one = None if self.results_of(method, budget) else self.left_out.get((method, budget))
        return "" if one is None else one.text

    def stored(self, method: str, budget: str, key: str) -> float | None:
        """Return the mean over seeds of a number of the result files; None if no file has it."""
        return mean_of_known(stored_number(result, key) for result in self.results_of(method, budget))

    def readings(self, method: str, budget: str, comparison: Comparison | None = None) -> Readings:
        """Return what is known of a method at a budget.

        Args:
            method: name of the method.
            budget: label of the budget.
            comparison: comparison with the baseline, if it is known.
        """
        by_type = {kind: self.interval(method, budget, kind) for kind in self.types}
        return Readings(
            stored=lambda key: self.stored(method, budget, key),
            accuracy=self.interval(method, budget),
            by_type={kind: interval for kind, interval in by_type.items() if interval is not None},
            comparison=comparison,
            is_oracle=method in ORACLES,
            view=lambda key: self._view(method, budget, key),
        )

    def _view(self, method: str, budget: str, key: str) -> Interval | None:
        if (method, budget, key) not in self._views:
            resized = self.results_of(RESIZE, budget)
            view = answer_view(self.results_of(method, budget), resized, key, self.full_results)
            self._views[method, budget, key] = view
        return self._views[method, budget, key]

    def knows(self, method: str, budget: str, key: str) -> bool:
        """Return whether the results of a method at a budget have a number, or a column of answers, of this name."""
        columns = any(key in result["answers"] for result in self.results_of(method, budget))
        return columns or self.stored(method, budget, key) is not None

    @cached_property
    def suits_accuracy(self) -> bool:
        """Whether accuracy says something: answers are not sentences, and some method is sometimes right."""
        answers = self.sample["answers"]
        counted = [kind not in self.sample["settings"]["exclude"] for kind in answers["type"]]
        right = [answer for answer, counts in zip(answers["answer"], counted, strict=True) if counts]
        return not are_open(right) and any(any(result["answers"]["correct"]) for result in self.results)

    def cost(self, measure: Measure, method: str, budget: str) -> float | None:
        """Return the value of a measure that is read from stored numbers; None if there is none."""
        value = measure.value(Readings(lambda key: self.stored(method, budget, key), is_oracle=method in ORACLES))
        assert not isinstance(value, Interval)
        return value

    def curves(self, x: Callable[[str, str], float | None], kind: str | None = None) -> dict[str, Curve]:
        """Return the accuracy of each method against a number.

        Args:
            x: function that returns the number of a method at a budget; None leaves the point out.
            kind: question type; None for the mean over types.

        Returns:
            Method -> points in ascending x.
        """
        curves: dict[str, Curve] = {}
        for method in self.methods:
            points: Curve = []
            for budget in self.by_method[method]:
                interval, position = self.interval(method, budget, kind), x(method, budget)
                if interval is not None and position is not None:
                    points.append((position, interval.value, interval.low, interval.high))
            curves[method] = sorted(points)
        return curves

    def difference(self, a: str, b: str, budget: str) -> Interval | None:
        """Return the paired difference of two methods at a budget; None if they were not asked the same questions."""
        if not self._same_questions(a, b, budget):
            return None
        ours, theirs = self.answers(a, budget), self.answers(b, budget)
        assert ours is not None and theirs is not None
        return paired_difference(ours, theirs)

    def _same_questions(self, a: str, b: str | None, budget: str) -> bool:
        """Whether two methods were run at a budget and asked the same questions."""
        ours, theirs = self.answers(a, budget), self.answers(b, budget) if b is not None else None
        return ours is not None and theirs is not None and same_questions(ours, theirs)

    def comparisons(
        self, kinds: Sequence[str | None], budgets: Sequence[str]
    ) -> dict[tuple[str, str, str | None], Comparison]:
        """Compare every method with the baseline; the tests are one family, for which p is corrected.

        Args:
            kinds: question types; None for the mean over types.
            budgets: labels of the budgets.

        Returns:
            (method, budget, kind) -> comparison, without methods that were not asked the same questions.
        """
        keys = [
            (method, budget, kind)
            for budget in budgets
            for method in self.methods
            if method != self.baseline and self._same_questions(method, self.baseline, budget)
            for kind in kinds
        ]
        observed = [self._observe(*key) for key in keys]
        flips = sign_flip(np.column_stack([one[0] for one in observed])).tolist() if observed else []
        mcnemars = [mcnemar(better, worse) for _, _, better, worse in observed]
        p_values = zip(mcnemars, holm(mcnemars), flips, holm(flips), strict=True)
        return {
            (method, budget, kind): Comparison(method, budget, difference, better, worse, *p)
            for (method, budget, kind), (_, difference, better, worse), p in zip(keys, observed, p_values, strict=True)
        }

    def _observe(self, method: str, budget: str, kind: str | None) -> tuple[np.ndarray, Interval, int, int]:
        """Compare a method with the baseline, which was asked the same questions.

        Returns:
            Contributions of the clusters to the difference, the difference, and the numbers of questions that the
            method answers better and worse.
        """
        baseline = str(self.baseline)
        ours, theirs = self.answers(method, budget), self.answers(baseline, budget)
        assert ours is not None and theirs is not None
        parts = contributions(ours, theirs)[:, -1 if kind is None else ours.types.index(kind)]
        if kind is not None:
            ours, theirs = ours.only(kind), theirs.only(kind)
        counts = discordant(*(self._right_shares(one, budget, kind) for one in (method, baseline)))
        return parts, paired_difference(ours, theirs), *counts

    def _right_shares(self, method: str, budget: str, kind: str | None) -> np.ndarray:
        """Return (Q,) share of the seeds with which a method answers each question right."""
        results = self.results_of(method, budget)
        types = {kind} if kind is not None else set(self.types)
        counted = [one in types for one in results[0]["answers"]["type"]]
        return np.mean([np.array(result["answers"]["correct"], float)[counted] for result in results], axis=0)

    def best(self, budget: str, condition: Condition | None = None, methods: Sequence[str] | None = None) -> str:
        """Return the most accurate method that fulfils a condition, of all with equal tokens or those given; or ""."""
        among = [one for one in self.methods if not one.endswith(EQUAL_FLOPS_SUFFIX)] if methods is None else methods
        candidates = [one for one in among if class_of(one) and (condition is None or condition(one))]
        scores = {method: answers.macro for method in candidates if (answers := self.answers(method, budget))}
        return max(scores, key=lambda method: scores[method], default="")


def _has_equal_flops(result: Result) -> bool:
    return result["compressor"].endswith(EQUAL_FLOPS_SUFFIX)
