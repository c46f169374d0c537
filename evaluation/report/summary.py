"""What a reader wants to know first, in sentences: which row at which budget, whether training paid, what is lost."""

from __future__ import annotations

from framefold.adapters.base.compressor import Compressor
from framefold.evaluation.metrics.significance import holm, parts_of, sign_flip
from framefold.evaluation.metrics.statistics import paired_difference, same_questions
from framefold.evaluation.results.formats import p_value, percent
from framefold.evaluation.results.measures import ACCURACY, summary_measures
from framefold.evaluation.results.settings import ORACLES

from .markdown import table
from .table import Table, class_of

WORST = 3  # question types to name


def summary(results: Table) -> str:
    """A paragraph for each budget."""
    if not results.best(results.budgets[0] if results.budgets else ""):
        return ""
    points = [f"- **{budget}**: {_at(results, budget)}" for budget in results.budgets]
    caution = (
        "The best rows were chosen by these very answers, so what they win by is a little too good. p is of the "
        "sign-flip test over videos, after Holm's correction where several rows are compared."
    )
    return "\n\n".join(["## In short", "\n".join(points), caution])


def _at(results: Table, budget: str) -> str:
    best, free = results.best(budget), results.best(budget, lambda cls: not cls.trainable)
    trained, blind = (
        results.best(budget, lambda cls: cls.trainable),
        results.best(budget, lambda cls: not cls.query_aware),
    )
    said = [f"{_told(results, best, budget)} is the most accurate{_against_full(results)}."]
    if equal := _not_worse(results, best, budget):
        said.append(f"Not to be told from it (p >= 0.05): {', '.join(equal)}.")
    if blind and blind != best:
        said.append(f"Of those that do not know the question it is {_told(results, blind, budget)}.")
    if free and free not in (best, blind):
        said.append(f"Of those without training it is {_told(results, free, budget)}.")
    if trained and free and (gain := results.difference(trained, free, budget)):
        p = _p(results, trained, [free], budget)[0]
        paid = "Whether training paid is not certain" if p >= 0.05 else "Training paid"
        paid = "Training did not pay" if p < 0.05 and gain.value < 0 else paid
        said.append(f"{paid}: `{trained}` - `{free}` is {percent(gain, sign=True)} points (p = {p_value(p)}).")
    return " ".join(said)


def _told(results: Table, name: str, budget: str) -> str:
    readings = results.readings(name, budget)
    costs = [one.phrase.format(value) for one in summary_measures() if (value := one.value(readings)) is not None]
    return f"`{name}` ({_kind(class_of(name))}{', '.join([ACCURACY.text(readings), *costs])})"


def _kind(cls: type[Compressor] | None) -> str:
    if cls is None or not cls.trainable:
        return ""
    return "trained, knows the question: " if cls.query_aware else "trained: "


def _against_full(results: Table) -> str:
    return "" if results.full is None else f"; all tokens have {100 * results.full:.1f}"


def _not_worse(results: Table, best: str, budget: str) -> list[str]:
    """Rows whose distance to the best one may be chance."""
    others = [name for name in results.rows if name != best and name not in ORACLES and results.answers(name, budget)]
    return [f"`{name}`" for name, p in zip(others, holm(_p(results, best, others, budget)), strict=True) if p >= 0.05]


def _p(results: Table, name: str, others: list[str], budget: str) -> list[float]:
    one, found = results.answers(name, budget), []
    for other in others:
        answers = results.answers(other, budget)
        if one is None or answers is None or not same_questions(one, answers):
            found.append(1.0)
        else:
            found.append(float(sign_flip(parts_of(one, answers)[:, -1:])[0]))
    return found


def losses(results: Table) -> str:
    """What each row loses to all tokens at the smallest budget but one, and on which question types most."""
    full, budget = results.full_answers, results.middle
    if full is None or not budget:
        return ""
    rows = []
    for name in results.rows:
        answers = results.answers(name, budget)
        if answers is None or not same_questions(answers, full):
            continue
        gaps = {kind: 100 * (answers.by_type[kind] - full.by_type[kind]) for kind in results.types}
        worst = sorted(gaps, key=lambda kind: gaps[kind])[:WORST]
        named = ", ".join(f"{kind} {gaps[kind]:+.0f}" for kind in worst)
        rows.append([name, percent(paired_difference(answers, full), sign=True), named])
    text = f"Accuracy at {budget} minus that of all tokens, in points, and the question types that lose most."
    return "\n\n".join(["## What is lost", text, table([f"lost at {budget}", "on average", "most"], rows)])
