"""Sections of ``report.md`` with Markdown tables; every number is derived from the result files."""

from __future__ import annotations

from collections.abc import Sequence

from framefold.data.synthetic.difficulty import preset_name
from framefold.evaluation.metrics.significance import Comparison, stars
from framefold.evaluation.results.formats import p_value, percent
from framefold.evaluation.results.measure import Measure, Readings
from framefold.evaluation.results.measures import ACCURACY, measures_of_table, type_measure
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX, EVENT_ORACLE, FULL, LORA_SUFFIX, ORACLE, SYNTHETIC

from .markdown import collapsible, format_table
from .methods import baselines, counterpart_of, is_trainable
from .references import reference_readings, reference_texts, references
from .table import ResultTable


def setting_paragraph(table: ResultTable) -> str:
    """Return a paragraph that says which questions about which videos were asked of which host."""
    settings, sample = table.sample["settings"], table.sample
    data, exclude = settings["data"], settings["exclude"]
    if data["kind"] == SYNTHETIC:
        preset = f"({preset_name(data['difficulty'])}, {data['style']} style)"
        videos = f"held-out synthetic videos of {data['frames']} frames {preset}"
    else:
        videos = f"videos of `{data['shards']}`"
    damaged = f" ({sample['damaged']} more were damaged)" if sample["damaged"] else ""
    excluded = f" Not part of that mean: {', '.join(exclude)}." if exclude else ""
    return (
        f"{sample['n']} questions about {data['videos'] - sample['damaged']} {videos}{damaged}, host "
        f"`{settings['host']}` in {settings['dtype']}. Accuracy is the mean over question types, in percent, with its "
        f"95 % bootstrap interval over {_clusters(table)}.{excluded} {_equality(table)}"
        f"{f' {note}' if (note := unsuited_note(table)) else ''}"
    )


def acts_inside(table: ResultTable) -> bool:
    """Return whether some method reduces tokens inside the language model."""
    return any("tokens_mean" in result["cost"] for result in table.results)


def _equality(table: ResultTable) -> str:
    """Return a sentence that says what the methods at a budget have in common."""
    tokens = " as the mean over the layers of the language model" if acts_inside(table) else ""
    text = f"All methods at a budget keep exactly the same number of visual tokens{tokens}"
    if any(method.endswith(EQUAL_FLOPS_SUFFIX) for method in table.methods):
        suffix = EQUAL_FLOPS_SUFFIX.strip()
        text += f", apart from those named `{suffix}`: their prefill has at most the FLOPs of this number in each layer"
    return f"{text}."


def _clusters(table: ResultTable) -> str:
    return "pairs of twin videos" if table.sample["settings"]["data"]["kind"] == SYNTHETIC else "videos"


def accuracy_table(table: ResultTable) -> str:
    """Return the table of accuracies of the methods at the budgets."""
    head = [_budget_head(table, budget) for budget in table.budgets] or ["no budget"]
    rows = [[method, *(_text(table, ACCURACY, method, budget) for budget in table.budgets)] for method in table.methods]
    rows += [[name, f"{text} (every column)", *[""] * (len(head) - 1)] for name, text in reference_texts(table)]
    return format_table(["compressor", *head], rows)


def _budget_head(table: ResultTable, budget: str) -> str:
    tokens = "/".join(map(str, table.tokens(budget)))
    return f"{budget} ({tokens} tokens)" if tokens else budget


def _text(table: ResultTable, measure: Measure, method: str, budget: str) -> str:
    return table.left_out_text(method, budget) or measure.text(table.readings(method, budget))


def left_out_list(table: ResultTable) -> str:
    """Return a list of the methods that are not possible in this host at any budget, with the reasons; or ""."""
    reasons = {
        method: one.reason
        for (method, budget), one in table.left_out.items()
        if one.smallest is None and table.left_out_text(method, budget)
    }
    lines = [f"- `{name}`: {reason}" for name, reason in reasons.items()]
    return "\n".join(["Not possible in this host:", "", *lines]) if lines else ""


def difference_table(table: ResultTable) -> str:
    """Return the table of paired differences that answer the usual questions, in points; "" if there are none.

    They compare the strongest baseline with weaker ones, trained methods with their counterparts and with baselines,
    the two oracles, and the best training-free method with the best trained one and with the oracle.
    """
    strongest, *weaker = baselines()
    pairs = [*((strongest, other) for other in weaker), *_trained_pairs(table), (ORACLE, EVENT_ORACLE)]
    budgets = table.budgets
    rows = [(f"{a} - {b}", [table.difference(a, b, budget) for budget in budgets]) for a, b in pairs]
    free = {budget: table.best(budget, lambda method: not is_trainable(method)) for budget in budgets}
    trained = {budget: table.best(budget, is_trainable) for budget in budgets}
    rows.append(("best trained - best training-free", [table.difference(trained[b], free[b], b) for b in budgets]))
    rows.append(("oracle - best training-free", [table.difference(ORACLE, free[b], b) for b in budgets]))
    shown = [[title, *(percent(one, sign=True) for one in values)] for title, values in rows if any(values)]
    return format_table(["paired difference", *budgets], shown) if shown else ""


def _trained_pairs(table: ResultTable) -> list[tuple[str, str]]:
    """Pair each trained method with itself without LoRA, its counterpart or weaker baselines, and the strongest one."""
    strongest, *weaker = baselines()
    pairs = []
    for method in table.methods:
        if is_trainable(method):
            start = [name] if (name := counterpart_of(method, table.by_method[method])) else weaker[::-1]
            others = (method.removesuffix(LORA_SUFFIX), *start, strongest)
            pairs += [(method, other) for other in others if other != method]
    return [pair for pair in dict.fromkeys(pairs) if pair[1] in table.by_method]


def comparison_section(table: ResultTable) -> str:
    """Return the section that compares every method with the baseline; "" if there is nothing to compare."""
    comparisons = table.comparisons([None], table.budgets)
    if not comparisons:
        return ""
    baseline, methods = table.baseline, [method for method in table.methods if method != table.baseline]
    rows = [[m, *(_marked(table, m, b, comparisons.get((m, b, None))) for b in table.budgets)] for m in methods]
    text = (
        f"Paired differences from `{baseline}` at the same budget, in points. \\* p < 0.05, \\*\\* p < 0.01, \\*\\*\\* "
        f"p < 0.001: two-sided sign-flip test over {_clusters(table)}, with Holm's correction for the "
        f"{len(comparisons)} tests of this table (all methods at all budgets)."
    )
    tests = _tests(table, list(comparisons.values()))
    return "\n\n".join(
        [f"## Compared with {baseline}", text, format_table([f"method - {baseline}", *table.budgets], rows), tests]
    )


def _tests(table: ResultTable, comparisons: list[Comparison]) -> str:
    """Return the p values of both tests, collapsed."""
    text = (
        "`better` and `worse` count the questions that only one of the two methods answers right (with several seeds: "
        "that it answers right more often). McNemar's exact test assumes that questions are independent. Questions "
        f"about one video are not, so its p is too small. The sign-flip test assumes only that {_clusters(table)} are "
        "independent, and the marks are based on it."
    )
    head = ["method", "budget", "better", "worse", "McNemar p", "Holm", "sign-flip p", "Holm"]
    rows = [
        [
            *(one.method, one.budget, str(one.better), str(one.worse)),
            *map(p_value, (one.mcnemar, one.mcnemar_holm, one.flip, one.flip_holm)),
        ]
        for one in comparisons
    ]
    return collapsible(f"p values of the {len(comparisons)} tests", text, format_table(head, rows))


def _marked(table: ResultTable, method: str, budget: str, comparison: Comparison | None) -> str:
    if comparison is None:
        return table.left_out_text(method, budget)
    return f"{percent(comparison.difference, sign=True)} {_marks(comparison)}".rstrip()


def _marks(comparison: Comparison | None) -> str:
    return "" if comparison is None else stars(comparison.flip_holm).replace("*", "\\*")


def type_section(table: ResultTable) -> str:
    """Return the section with accuracies per question type, collapsed budget by budget."""
    return "\n\n".join(["## Per question type", *(_types_at(table, budget) for budget in table.budgets)])


def _types_at(table: ResultTable, budget: str) -> str:
    measures = {kind: type_measure(kind) for kind in table.types}
    comparisons = table.comparisons([*measures], [budget])
    rows = []
    for method in table.methods:
        if table.results_of(method, budget):
            readings = table.readings(method, budget)
            marks = (_marks(comparisons.get((method, budget, kind))) for kind in measures)
            values = (measure.brief_text(readings) for measure in measures.values())
            rows.append([method, *(f"{value} {mark}".rstrip() for value, mark in zip(values, marks, strict=True))])
        elif left_out := table.left_out_text(method, budget):
            rows.append([method, left_out, *[""] * (len(measures) - 1)])
    for one in references(table):
        rows.append([one.name, *(measure.brief_text(one.readings) for measure in measures.values())])
    text = (
        f"Accuracy in percent, with 95 % intervals. Marks: significantly more or less accurate than `{table.baseline}` "
        f"by the sign-flip test, with Holm's correction for the {len(comparisons)} tests of this table."
    )
    content = format_table([f"at {budget}", *measures], rows)
    return collapsible(f"at {budget}", *([text] if comparisons else []), content)


def unsuited_note(table: ResultTable) -> str:
    """Return a sentence for answers that accuracy cannot measure; "" if it can."""
    if table.suits_accuracy:
        return ""
    known = any(measure.value(table.readings(*key)) is not None for measure in _ANSWERS for key in _results(table))
    others = " and ".join(measure.title for measure in _ANSWERS)
    advice = f"compare {others}" if known else f"these results lack {others}: run the ablation again"
    return (
        "Accuracy does not suit these answers: an answer counts as right only if every one of its tokens is the"
        f" likeliest, which hardly happens in sentences; {advice}."
    )


_ANSWERS = measures_of_table("answers")


def main_tables(table: ResultTable) -> str:
    """Return the tables that are printed: accuracies and paired differences, or first what suits the answers better."""
    note = unsuited_note(table)
    tables = [note, measures_table(table, _ANSWERS, reference_readings(table, FULL))] if note else []
    return "\n\n".join(filter(None, [*tables, accuracy_table(table), left_out_list(table), difference_table(table)]))


def _results(table: ResultTable) -> list[tuple[str, str]]:
    return [(method, budget) for method in table.methods for budget in table.by_method[method]]


def answer_section(table: ResultTable) -> str:
    """Return the section on loss and overlap of the answers; "" if the results lack them."""
    return _measures_section("## Answers", table, _ANSWERS, "", reference_readings(table, FULL))


def evidence_section(table: ResultTable) -> str:
    """Return the section on the kept share of the annotated evidence and its purity; "" without annotations."""
    remark = "Recall and purity are equal if tokens are only dropped; merging keeps more evidence, but dilutes it."
    return _measures_section(
        "## Evidence kept", table, known_measures(table, measures_of_table("evidence"), table.budgets), remark
    )


def measures_table(table: ResultTable, measures: list[Measure], full: Readings | None = None) -> str:
    """Return a table with several measures in a cell, and a row for all tokens if given; "" if there are no values."""
    readings = [table.readings(*key) for key in _results(table)] + ([] if full is None else [full])
    if not any(_texts(measures, one) for one in readings):
        return ""
    rows = [[method, *(_cell(table, measures, method, budget) for budget in table.budgets)] for method in table.methods]
    if full is not None and (text := _texts(measures, full)):
        rows.append(["all tokens", f"{text} (every column)", *[""] * (len(table.budgets) - 1)])
    return format_table([" / ".join(measure.label for measure in measures), *table.budgets], rows)


def _cell(table: ResultTable, measures: list[Measure], method: str, budget: str) -> str:
    return table.left_out_text(method, budget) or _texts(measures, table.readings(method, budget))


def _texts(measures: list[Measure], readings: Readings) -> str:
    texts = [measure.brief_text(readings) for measure in measures]
    return " / ".join(text or "-" for text in texts) if any(texts) else ""


def _measures_section(
    title: str, table: ResultTable, measures: list[Measure], remark: str, full: Readings | None = None
) -> str:
    content = measures_table(table, measures, full)
    if not content:
        return ""
    definitions = [f"{measure.title.capitalize()}: {measure.definition}." for measure in measures]
    return "\n\n".join([title, " ".join(filter(None, [*definitions, remark])), content])


def cost_section(table: ResultTable) -> str:
    """Return the section with the costs of the methods; only those at the second smallest budget are not collapsed."""
    sample = table.sample
    machine, memory = sample["machine"], sample["cost"]["memory_of"]
    text = (
        f"Medians over {sample['cost']['videos']} videos, one at a time, on {machine['gpu'] or machine['processor']} "
        f"({machine['threads']} threads). Each video was also prefilled with all tokens in the same process; "
        "`speed-up` is the time of that divided by the time of compressor and prefill together. A query-aware method "
        "prefills once per question. FLOPs of the prefill are computed by formula, those of the compressor are counted "
        f"in its matrix products. Memory is the peak in addition to weights and features (counted: {memory})."
    )
    shown = [_cost_at(table, budget) for budget in table.budgets if budget == table.second_smallest]
    folded = [collapsible(f"at {b}", _cost_at(table, b)) for b in table.budgets if b != table.second_smallest]
    return "\n\n".join(["## Cost", text, *shown, *folded])


def _cost_at(table: ResultTable, budget: str) -> str:
    measures = known_measures(table, measures_of_table("cost"), [budget])
    rows = []
    for method in table.methods:
        if table.results_of(method, budget):
            readings = table.readings(method, budget)
            rows.append([method, *(measure.text(readings) + _share(measure, readings) for measure in measures)])
        elif text := table.left_out_text(method, budget):
            rows.append([method, text, *[""] * (len(measures) - 1)])
    return format_table([f"at {budget}", *(measure.label for measure in measures)], rows)


def known_measures(table: ResultTable, measures: Sequence[Measure], budgets: Sequence[str]) -> list[Measure]:
    """Leave out measures that no method has at any of the budgets, see ``Measure.needs``."""
    pairs = [(method, budget) for budget in budgets for method in table.methods]
    return [one for one in measures if not one.needs or any(table.knows(*pair, one.needs) for pair in pairs)]


def _share(measure: Measure, readings: Readings) -> str:
    """Return the share of the value with all tokens as text, for measures that store it."""
    value, full = measure.value(readings), readings.stored(measure.reference) if measure.reference else None
    return f" ({100 * value / full:.0f} %)" if isinstance(value, (int, float)) and full else ""
