"""``framefold committed``: results in one small file, and the tables of documents from it."""

from __future__ import annotations

from pathlib import Path

from framefold.errors import ConfigError, ResultsError
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.compact import write_compact
from framefold.evaluation.results.left_out import read_left_out, stored_left_out
from framefold.evaluation.results.result_files import read_results

from .fill import write_tables


def committed(file: str, results: str | None = None, fill: list[str] | None = None, check: bool = False) -> None:
    """Commit the results of an ablation as one file, and write the tables of documents from it, without a host.

    A table of a document stands between the comments "<!-- ablation NAME: accuracy | fila, uniform | 10 %, 5 % -->" and
    "<!-- end of ablation -->", where NAME is the name of the file without its ending; methods and budgets may be left
    out. Besides accuracy, there are differences, equal FLOPs, position, asked again and long answers.

    Args:
        file: JSON file of the committed results, such as checkpoints/ablation/default.json.
        results: the --out folder of an ablation, from which the file is written first.
        fill: documents whose tables are written anew.
        check: only compare the tables with the results.

    Raises:
        ConfigError: a document has no such table, or check is set without documents.
        ResultsError: there are no results, a file is damaged, or a table differs and check is set.
    """
    if check and not fill:
        raise ConfigError("check compares the tables of documents: name them with --fill")
    if results is not None:
        source = Path(results)
        write_compact(Path(file), read_results(source), stored_left_out(source))
        print(f"wrote {file}: {Path(file).stat().st_size // 1024} KiB")
    table = ResultTable(read_results(Path(file)), None, read_left_out(Path(file)))
    different = write_tables(table, Path(file).stem, [Path(one) for one in fill or []], check)
    names = ", ".join(map(str, different))
    if check and different:
        raise ResultsError(f"tables differ from {file}: {names}; write them with 'framefold committed' without --check")
    if fill:
        print(f"changed: {names}" if different else f"the tables of {', '.join(fill)} are those of {file}")
