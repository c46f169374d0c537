"""``framefold doctor``: what this machine has, and what each missing piece disables.

Packages are imported in other processes, with a limit on the time, because some crash or hang where they do not fit the
machine. It runs on the base install, and on less: it imports nothing that may be missing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from .machine import machine_rows
from .rows import GROUPS, LANES, PACKAGES, Finding, Package

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from framefold.cli.doctor.probes import main; main(sys.argv[2], sys.argv[3:])"
)

COLOURS = {"found": "green", "missing": "yellow", "low": "yellow", "broken": "bold red"}


def doctor(timeout: float = 60) -> list[Finding]:
    """Look at everything.

    Args:
        timeout: seconds that the import of one package may take.

    Returns:
        What there is and what there is not, by group.
    """
    with tempfile.TemporaryDirectory(prefix="framefold-doctor-") as folder:
        lanes = [_Lane(lane, Path(folder, str(i)), timeout) for i, lane in enumerate(LANES)]
        try:
            rows = machine_rows()
            while not all([lane.finished() for lane in lanes]):
                time.sleep(0.02)
        finally:
            for lane in lanes:
                lane.kill()
    rows += [row for lane in lanes for row in lane.rows]
    return sorted(rows, key=lambda row: GROUPS.index(row.group))


class _Lane:
    """Packages that are imported one after the other in a process, and after one that breaks in a further one."""

    def __init__(self, packages: Sequence[Package], file: Path, timeout: float) -> None:
        self.left, self.file, self.timeout = [package.module for package in packages], file, timeout
        self.rows: list[Finding] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.read, self.broke = 0, False  # lines of the file; whether the last package was broken
        self._start()

    def finished(self) -> bool:
        """Take what has come in, and go on."""
        if self.process is None and self.left:
            self._start()
        if self.process is None:
            return True
        ended = self.process.poll()  # before reading: what it wrote is there once it has ended
        told = self._told()
        if ended is not None:
            self.kill()  # what it has left running
            if self.left and not self.broke:
                died = f"by {signal.Signals(-ended).name}" if ended < 0 else f"with status {ended}"
                self._give_up(f"its import ended the process {died}")
        elif told:
            self.deadline = time.monotonic() + self.timeout
        elif time.monotonic() > self.deadline:
            self.kill()
            self._give_up(f"its import did not end in {self.timeout:g} s (--timeout gives it longer)")
        return False

    def kill(self) -> None:
        """End the process, and what it has started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _start(self) -> None:
        self.file.write_text("")
        self.deadline = time.monotonic() + self.timeout
        words = [sys.executable, "-c", CHILD, json.dumps(sys.path), str(self.file), *self.left]
        nothing = subprocess.DEVNULL
        self.process = subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
        self.read, self.broke = 0, False

    def _told(self) -> bool:
        lines = [line for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        new, self.read = lines[self.read :], len(lines)
        for line in new:
            name, rows = json.loads(line)
            self.rows += [Finding(**row) for row in rows]
            self.broke = rows[0]["state"] == "broken"  # then the process ends
            self.left.remove(name)
        return bool(new)

    def _give_up(self, why: str) -> None:
        package = PACKAGES[self.left.pop(0)]
        self.rows.append(package.row("broken", f"{package.version() or ''} {why}".strip()))


def main(args: Sequence[str]) -> int:
    """The verb: print the lines as a table, as plain text where there is no terminal, or as JSON.

    Returns:
        0, or 1 if something of the base install is missing or broken.
    """
    parser = _Parser(
        prog="framefold doctor",
        description="What this machine has, and what each missing piece disables.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--json", nargs="?", const="true", default="false", choices=["true", "false"], help="print JSON"
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds that the import of one package may take")
    given = parser.parse_args(args)
    if not given.timeout > 0:
        parser.error(f"--timeout must be positive, got {given.timeout:g}")
    if sys.stderr.isatty():
        print("doctor: importing packages, a few seconds ...", file=sys.stderr)
    rows = doctor(given.timeout)
    whole = all(row.state == "found" for row in rows if row.required)
    if given.json == "true":
        print(json.dumps({"ok": whole, "rows": [asdict(row) for row in rows]}, indent=1))
        return 0 if whole else 1
    if sys.stdout.isatty() and any(row.name == "rich" and row.state == "found" for row in rows):
        _print_table(rows)
    else:
        print("\n".join(_plain(rows)))
    counts = {state: sum(row.state == state for row in rows) for state in COLOURS}
    print(", ".join(f"{count} {state}" for state, count in counts.items()), end=": ")
    print("the base install is complete" if whole else "the base install is NOT complete")
    return 0 if whole else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Ends with one line instead of a usage text."""
        raise SystemExit(f"{message} (options: framefold doctor --help)")


def _plain(rows: Sequence[Finding]) -> list[str]:
    wide = max(len(row.name) for row in rows)
    lines, group = [], ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(group)
        lines.append(f"  {row.state:<8}{row.name:<{wide}}  {row.detail}".rstrip())
        lines += [f"  {'':<8}{'':<{wide}}  {name}: {text}" for name, text in _consequences(row)]
    return lines


def _consequences(row: Finding) -> list[tuple[str, str]]:
    return [(name, text) for name, text in (("disables", row.disables), ("get it", row.get)) if text]


def _print_table(rows: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "version, amount", "what it disables", "how to get it")
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(Text(group, style="bold"))
        state = Text(row.state, style=COLOURS[row.state])
        table.add_row(Text(row.name), state, *map(Text, (row.detail, row.disables, row.get)))  # as it is: no markup
    Console().print(table)
