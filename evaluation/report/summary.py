"""Summary of an ablation in sentences: the best method at each budget, whether training helped, and what is lost."""

from __future__ import annotations

from framefold.evaluation.metrics.significance import contributions, holm, sign_flip
from framefold.evaluation.metrics.statistics import paired_difference, same_questions
from framefold.evaluation.results.formats import p_value, percent
from framefold.evaluation.results.measures import ACCURACY, summary_measures
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX, ORACLES, RESIZE

from .markdown import format_table
from .methods import class_of, is_query_aware, is_trainable
from .table import ResultTable

FRAMES_SUFFIX = "x frames)"  # of the names of rows that get fewer frames

MOST_LISTED = 6  # methods that a sentence names

WORST_TYPES = 3  # number of question types that the table of losses names


CAUTION = (
    "The best methods were chosen by these very answers, so their lead is slightly overestimated. p is that of the "
    "sign-flip test over videos, with Holm's correction if several methods are compared."
)


def summary(table: ResultTable) -> str:
    """Return a section with a paragraph for each budget; "" if there is no compressor."""
    points = [f"- **{budget}**: {text}" for budget, text in summary_points(table)]
    return "\n\n".join(["## In short", "\n".join(points), CAUTION]) if points else ""


def summary_points(table: ResultTable) -> list[tuple[str, str]]:
    """Return each budget and the sentences about it, with names in backticks, if a compressor was run at it."""
    points = [(budget, _sentences(table, budget)) for budget in table.budgets]
    return [(budget, text) for budget, text in points if text]


def _sentences(table: ResultTable, budget: str) -> str:
    tokens = [method for method in table.methods if not method.endswith(EQUAL_FLOPS_SUFFIX)]
    sentences = [_best_sentence(table, budget, tokens, "is the most accurate method"), _other_kinds(table, budget)]
    sentences += [_against_fewer_pixels(table, budget), _against_fewer_frames(table, budget)]
    if flops := _methods_with_equal_flops(table, budget):
        sentences.append(_best_sentence(table, budget, flops, "is the most accurate method at equal FLOPs"))
    return " ".join(filter(None, sentences))


def _methods_with_equal_flops(table: ResultTable, budget: str) -> list[str]:
    """Return the methods whose FLOPs are at most those of the budget's tokens in every layer; none without such rows.

    Methods that do not act inside the language model belong to them.
    """
    run = {method: results for method in table.methods if (results := table.results_of(method, budget))}
    if not any(method.endswith(EQUAL_FLOPS_SUFFIX) for method in run):
        return []
    inside = [method for method, results in run.items() if "tokens_mean" in results[0]["cost"]]
    return [method for method in run if method not in inside or method.endswith(EQUAL_FLOPS_SUFFIX)]


def _best_sentence(table: ResultTable, budget: str, methods: list[str], title: str) -> str:
    """Return which of the methods is the most accurate one, and which are not significantly worse; "" without any."""
    best = table.best(budget, methods=methods)
    if not best:
        return ""
    text = f"{_describe(table, best, budget)} {title}{_full_accuracy(table)}."
    same = _not_worse(table, best, budget, methods)
    return f"{text} Not significantly worse (p >= 0.05): {', '.join(same)}." if same else text


def _other_kinds(table: ResultTable, budget: str) -> str:
    """Return the most accurate method that is not query-aware, the training-free one, and whether training helped."""
    best, free = table.best(budget), table.best(budget, lambda method: not is_trainable(method))
    trained = table.best(budget, is_trainable)
    blind = table.best(budget, lambda method: not is_query_aware(method, table.by_method[method]))
    sentences = []
    if blind and blind != best:
        sentences.append(f"The most accurate method that is not query-aware is {_describe(table, blind, budget)}.")
    if free and free not in (best, blind):
        sentences.append(f"The most accurate training-free method is {_describe(table, free, budget)}.")
    if trained and free and (gain := table.difference(trained, free, budget)):
        (p,) = _p_values(table, trained, [free], budget)
        verdict = "It is not certain that training helped" if p >= 0.05 else "Training helped"
        verdict = "Training did not help" if p < 0.05 and gain.value < 0 else verdict
        sentences.append(f"{verdict}: `{trained}` - `{free}` is {percent(gain, sign=True)} points (p = {p_value(p)}).")
    return " ".join(sentences)


def _against_fewer_pixels(table: ResultTable, budget: str) -> str:
    """Return which methods smaller and fewer frames beat at equal tokens, and which beat them; "" without such rows.

    Of the sides of frames, and of the numbers of frames of a method, the most accurate one is compared, which was
    chosen by these very answers.
    """
    run = [one for one in table.methods if table.answers(one, budget)]
    fewer = {one: one.rpartition(" (")[0] for one in run if one.endswith(FRAMES_SUFFIX)}
    others = [one for one in run if class_of(one) and one not in fewer]
    groups = [("Smaller frames", [one for one in run if one == RESIZE])]
    groups += [("Fewer and larger frames", [one for one in run if one.startswith(f"{RESIZE} (")])]
    groups += [
        (f"Fewer frames for `{of}`", [one for one in fewer if fewer[one] == of]) for of in dict.fromkeys(fewer.values())
    ]
    chosen = [(title, max(rows, key=lambda row: _macro(table, row, budget))) for title, rows in groups if rows]
    return " ".join(_against(table, budget, title, row, others) for title, row in chosen if others)


def _macro(table: ResultTable, method: str, budget: str) -> float:
    answers = table.answers(method, budget)
    return -1.0 if answers is None else answers.macro


def _against(table: ResultTable, budget: str, title: str, row: str, others: list[str]) -> str:
    """Return which of the other methods a row is significantly worse and better than."""
    p_values = dict(zip(others, holm(_p_values(table, row, others, budget)), strict=True))
    gains = {one: table.difference(one, row, budget) for one in others}
    sure = {one: gain.value for one, gain in gains.items() if gain is not None and p_values[one] < 0.05}
    beats = [f"`{one}`" for one, gain in sure.items() if gain > 0]
    beaten = [f"`{one}`" for one, gain in sure.items() if gain < 0]
    text = f"{title} (`{row}`, {ACCURACY.text(table.readings(row, budget))})"
    if not sure:
        return f"{text} differ significantly from no method."
    return f"{text} are significantly worse than {_listed(beats)} and better than {_listed(beaten)}."


def _listed(names: list[str]) -> str:
    """Return names as a list, or their number if they are many."""
    return ", ".join(names) or "no method" if len(names) <= MOST_LISTED else f"{len(names)} methods"


def _against_fewer_frames(table: ResultTable, budget: str) -> str:
    """Return what methods gain by all frames over fewer ones at equal tokens; "" without such rows."""
    sentences = []
    for method in table.methods:
        name, _, label = method.rpartition(" (")
        if label.endswith(FRAMES_SUFFIX) and (gain := table.difference(name, method, budget)):
            times = label.removesuffix(" frames)")
            text = f"With all frames instead of {times} those that the budget holds without compression, `{name}` has"
            sentences.append(f"{text} {percent(gain, sign=True)} points.")
    return " ".join(sentences)


def _describe(table: ResultTable, method: str, budget: str) -> str:
    """Return a method's name with its kind, accuracy and the measures that the summary mentions."""
    readings = table.readings(method, budget)
    costs = [one.phrase.format(value) for one in summary_measures() if (value := one.value(readings)) is not None]
    return f"`{method}` ({_kind(table, method)}{', '.join([ACCURACY.text(readings), *costs])})"


def _kind(table: ResultTable, method: str) -> str:
    if not is_trainable(method):
        return ""
    return "trained, query-aware: " if is_query_aware(method, table.by_method[method]) else "trained: "


def _full_accuracy(table: ResultTable) -> str:
    return "" if table.full_accuracy is None else f"; all tokens reach {100 * table.full_accuracy:.1f}"


def _not_worse(table: ResultTable, best: str, budget: str, methods: list[str]) -> list[str]:
    """Return those of the methods whose difference to the best one is not significant."""
    others = [one for one in methods if one != best and one not in ORACLES and table.answers(one, budget)]
    p_values = holm(_p_values(table, best, others, budget))
    return [f"`{method}`" for method, p in zip(others, p_values, strict=True) if p >= 0.05]


def _p_values(table: ResultTable, method: str, others: list[str], budget: str) -> list[float]:
    """Return p of the sign-flip test of a method against each of the others; 1 if the questions were not the same."""
    answers, p_values = table.answers(method, budget), []
    for other in others:
        theirs = table.answers(other, budget)
        if answers is None or theirs is None or not same_questions(answers, theirs):
            p_values.append(1.0)
        else:
            p_values.append(float(sign_flip(contributions(answers, theirs)[:, -1:])[0]))
    return p_values


def losses(table: ResultTable) -> str:
    """Return a section with each method's loss against all tokens at the second smallest budget, and where it is worst.

    It is "" if all tokens were not run.
    """
    full, budget = table.full_answers, table.second_smallest
    if full is None or not budget:
        return ""
    rows = []
    for method in table.methods:
        answers = table.answers(method, budget)
        if answers is None or not same_questions(answers, full):
            continue
        gaps = {kind: 100 * (answers.by_type[kind] - full.by_type[kind]) for kind in table.types}
        worst = sorted(gaps, key=lambda kind: gaps[kind])[:WORST_TYPES]
        most = ", ".join(f"{kind} {gaps[kind]:+.0f}" for kind in worst)
        rows.append([method, percent(paired_difference(answers, full), sign=True), most])
    text = f"Accuracy at {budget} minus that of all tokens, in points, and the question types with the largest losses."
    head = [f"loss at {budget}", "mean", "largest losses"]
    return "\n\n".join(["## What is lost", text, format_table(head, rows)])
