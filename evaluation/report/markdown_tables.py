"""Markdown tables of an ablation. Nothing here is typed in: every number comes from the cells."""

from __future__ import annotations

from framefold.data.synthetic.difficulty import preset_name
from framefold.evaluation.metrics.significance import Comparison, stars
from framefold.evaluation.results.formats import p_value, percent
from framefold.evaluation.results.measure import Measure, Readings
from framefold.evaluation.results.measures import ACCURACY, measures_of_table, type_measure
from framefold.evaluation.results.settings import EVENT_ORACLE, ORACLE, SYNTHETIC, WITH_LORA

from .markdown import details, table
from .table import Table, baselines, class_of


def setting(results: Table) -> str:
    """One paragraph: what was asked of which host."""
    s, cell = results.sample["settings"], results.sample
    data, left_out = s["data"], f" Left out of the headline: {', '.join(s['exclude'])}." if s["exclude"] else ""
    if data["kind"] == SYNTHETIC:
        kind = f"({preset_name(data['difficulty'])}, {data['style']} style)"
        what = f"held-out synthetic videos of {data['frames']} frames {kind}"
        drawn = "pairs of twins"
    else:
        what, drawn = f"videos of `{data['shards']}`", "videos"
    damaged = f" ({cell['damaged']} more were damaged)" if cell["damaged"] else ""
    return (
        f"{cell['n']} questions about {data['videos'] - cell['damaged']} {what}{damaged}, host `{s['host']}` in "
        f"{s['dtype']}. Accuracy is the mean over question types, in percent, with the 95 % bootstrap interval over "
        f"{drawn}.{left_out} The rows of a column hold exactly equal numbers of visual tokens."
    )


def accuracy(results: Table) -> str:
    """Accuracy of each row at each budget."""
    head = [f"{b} ({'/'.join(map(str, results.tokens(b)))} tokens)" for b in results.budgets] or ["no budget"]
    rows = []
    for name in results.rows:
        rows.append([name, *(ACCURACY.text(results.readings(name, budget)) for budget in results.budgets)])
    if results.full is not None:
        rows.append(["all tokens", f"{100 * results.full:.1f} (every column)", *[""] * (len(head) - 1)])
    return table(["compressor", *head], rows)


def differences(results: Table) -> str:
    """Paired differences in points: the usual baseline to floor, trained to baselines, and the room to win.

    The room is from the oracle to keeping every event, and to the best training-free row of a column.
    """
    strongest, *floors = baselines()
    pairs = [*((strongest, floor) for floor in floors), *_trained(results), (ORACLE, EVENT_ORACLE)]
    budgets = results.budgets
    rows = [(f"{a} - {b}", [results.difference(a, b, budget) for budget in budgets]) for a, b in pairs]
    free = {budget: results.best(budget, lambda cls: not cls.trainable) for budget in budgets}
    trained = {budget: results.best(budget, lambda cls: cls.trainable) for budget in budgets}
    rows.append(("best trained - best training-free", [results.difference(trained[b], free[b], b) for b in budgets]))
    rows.append(("oracle - best training-free", [results.difference(ORACLE, free[b], b) for b in budgets]))
    shown = [[title, *(percent(one, sign=True) for one in values)] for title, values in rows if any(values)]
    return table(["paired difference", *budgets], shown)


def _trained(results: Table) -> list[tuple[str, str]]:
    """Pair trained rows with the same without LoRA, their start or the weaker baselines, and the strongest one."""
    strongest, *floors = baselines()
    pairs = []
    for name in results.rows:
        cls = class_of(name)
        if cls is not None and cls.trainable:
            start = [cls.counterpart] if cls.counterpart else floors[::-1]
            others = (name.removesuffix(WITH_LORA), *start, strongest)
            pairs += [(name, other) for other in others if other != name]
    return [pair for pair in dict.fromkeys(pairs) if pair[1] in results.by_row]


def compared(results: Table) -> str:
    """Every row against the baseline, with marks of significance; the p of both tests folded away."""
    found = results.comparisons([None], results.budgets)
    if not found:
        return ""
    base, names = results.baseline, [name for name in results.rows if name != results.baseline]
    rows = [[name, *[_marked(found.get((name, b, None))) for b in results.budgets]] for name in names]
    head = ["row", "budget", "better", "worse", "McNemar p", "Holm", "sign-flip p", "Holm"]
    ps = [
        [c.row, c.budget, str(c.better), str(c.worse), *map(p_value, (c.mcnemar, c.mcnemar_holm, c.flip, c.flip_holm))]
        for c in found.values()
    ]
    return "\n\n".join(
        [
            f"## Compared with {base}",
            f"Paired differences to `{base}` at the same budget, in points. \\* p < 0.05, \\*\\* p < 0.01, \\*\\*\\* "
            f"p < 0.001: sign-flip test over {_drawn(results)}, two-sided, after Holm's correction for the "
            f"{len(found)} tests of this table (all rows at all budgets).",
            table([f"row - {base}", *results.budgets], rows),
            details(
                f"p of the {len(found)} tests",
                f"`better` and `worse` count the questions that only one of the two gets right (of several seeds: more "
                "often right). McNemar's exact test takes questions for independent; those about one video are not, so "
                f"its p is too small. The sign-flip test takes {_drawn(results)} for independent, and it is the one "
                "that is marked.",
                table(head, ps),
            ),
        ]
    )


def _drawn(results: Table) -> str:
    return "pairs of twins" if results.sample["settings"]["data"]["kind"] == SYNTHETIC else "videos"


def _marked(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{percent(comparison.difference, sign=True)} {_escaped(stars(comparison.flip_holm))}".rstrip()


def _escaped(marks: str) -> str:
    return marks.replace("*", "\\*")


def by_type(results: Table) -> str:
    """Accuracy per question type at every budget, folded away."""
    return "\n\n".join(["## Per question type", *(_types_at(results, budget) for budget in results.budgets)])


def _types_at(results: Table, budget: str) -> str:
    shown = {kind: type_measure(kind) for kind in results.types}
    found = results.comparisons([*shown], [budget])
    rows = []
    for name in results.rows:
        if results.answers(name, budget) is None:
            continue
        marks = [stars(one.flip_holm) if (one := found.get((name, budget, kind))) else "" for kind in shown]
        values = [measure.brief_text(results.readings(name, budget)) for measure in shown.values()]
        rows.append([name, *(f"{value} {_escaped(mark)}".rstrip() for value, mark in zip(values, marks, strict=True))])
    if full := results.full_readings():
        rows.append(["all tokens", *(measure.brief_text(full) for measure in shown.values())])
    text = (
        f"Percent with 95 % intervals. Marks: more or less accurate than `{results.baseline}`, sign-flip test after "
        f"Holm's correction for the {len(found)} tests of this table."
    )
    return details(f"at {budget}", *([text] if found else []), table([f"at {budget}", *shown], rows))


def evidence(results: Table) -> str:
    """Share of the annotated evidence that was kept, and how much of it is left in what was kept."""
    shown = measures_of_table("evidence")
    rows = []
    for name in results.rows:
        values = []
        for budget in results.budgets:
            texts = [measure.brief_text(results.readings(name, budget)) for measure in shown]
            values.append(" / ".join(text or "-" for text in texts) if any(texts) else "")
        rows.append([name, *values])
    if not any(any(row[1:]) for row in rows):
        return ""
    text = (
        "Of the visual tokens with a question's annotated evidence: the share that went into a token that was kept / "
        "the mean share of the originals of that token that are evidence (0 where dropped), in percent. Where tokens "
        "are pruned the two are equal; merging keeps evidence, and dilutes it."
    )
    title = " / ".join(measure.title for measure in shown)
    return "\n\n".join(["## Evidence kept", text, table([title, *results.budgets], rows)])


def cost(results: Table) -> str:
    """What each row costs at each budget, folded away but for the smallest but one."""
    cell = results.sample
    machine, memory = cell["machine"], cell["cost"]["memory_of"]
    text = (
        f"Medians of {cell['cost']['videos']} videos, one at a time, on {machine['gpu'] or machine['processor']} "
        f"({machine['threads']} threads). Each was prefilled with all tokens beside it, in the same process: "
        "`speed-up` is by how much that takes longer than compressor and prefill together. A row that knows the "
        "question prefills once a question. Operations of the prefill are by formula, those of the compressor its "
        f"matrix products. Memory is the peak beside weights and features ({memory})."
    )
    shown = [_cost_at(results, budget) for budget in results.budgets if budget == results.middle]
    folded = [details(f"at {b}", _cost_at(results, b)) for b in results.budgets if b != results.middle]
    return "\n\n".join(["## Cost", text, *shown, *folded])


def _cost_at(results: Table, budget: str) -> str:
    shown = measures_of_table("cost")
    rows = []
    for name in results.rows:
        if results.cells_of(name, budget):
            readings = results.readings(name, budget)
            rows.append([name, *(measure.text(readings) + _share(measure, readings) for measure in shown)])
    return table([f"at {budget}", *(measure.title for measure in shown)], rows)


def _share(measure: Measure, readings: Readings) -> str:
    """Return the share of the value with all tokens as text, for measures that store it."""
    value, whole = measure.value(readings), readings.stored(measure.reference) if measure.reference else None
    return f" ({100 * value / whole:.0f} %)" if isinstance(value, (int, float)) and whole else ""
