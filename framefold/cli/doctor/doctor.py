"""``framefold doctor``: report what this machine has and what each missing piece disables.

Packages are imported in other processes with a time limit, because some crash or hang if they do not match the machine.
The verb works on the base install and even without it: this file imports nothing that may be missing.
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

from .findings import GROUPS, PACKAGE_LISTS, Finding, Package, plugins
from .machine import machine_findings

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from framefold.cli.doctor.probes import main; main(sys.argv[2], sys.argv[3:])"
)

COLOURS = {"found": "green", "missing": "yellow", "low": "yellow", "broken": "bold red"}


def doctor(timeout: float = 60) -> list[Finding]:
    """Check the machine and all packages.

    Args:
        timeout: maximum number of seconds for the import of one package.

    Returns:
        The findings, ordered by group.
    """
    with tempfile.TemporaryDirectory(prefix="framefold-doctor-") as folder:
        lists = [*PACKAGE_LISTS, *([plugins()] if plugins() else [])]
        checks = [_PackageCheck(list_, Path(folder, str(i)), timeout) for i, list_ in enumerate(lists)]
        try:
            findings = machine_findings()
            while not all([check.finished() for check in checks]):
                time.sleep(0.02)
        finally:
            for check in checks:
                check.kill()
    findings += [finding for check in checks for finding in check.findings]
    return sorted(findings, key=lambda finding: GROUPS.index(finding.group))


class _PackageCheck:
    """Imports packages one after another in a process, and those after a broken one in a new process.

    Args:
        packages: packages in the order of their imports.
        file: file through which the process returns its findings.
        timeout: maximum number of seconds for one package.

    Attributes:
        findings: findings so far.
    """

    def __init__(self, packages: Sequence[Package], file: Path, timeout: float) -> None:
        self.packages = {package.module: package for package in packages}
        self.remaining, self.file, self.timeout = list(self.packages), file, timeout
        self.findings: list[Finding] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.lines_read, self.last_is_broken = 0, False
        self._start()

    def finished(self) -> bool:
        """Collect new findings, start the next process if necessary, and return whether all packages were checked."""
        if self.process is None and self.remaining:
            self._start()
        if self.process is None:
            return True
        status = self.process.poll()  # before reading the file: an ended process has written everything
        progress = self._read()
        if status is not None:
            self.kill()  # child processes that it left running
            if self.remaining and not self.last_is_broken:
                end = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
                self._mark_broken(f"its import ended the process {end}")
        elif progress:
            self.deadline = time.monotonic() + self.timeout
        elif time.monotonic() > self.deadline:
            self.kill()
            self._mark_broken(f"its import did not finish within {self.timeout:g} s (see --timeout)")
        return False

    def kill(self) -> None:
        """Kill the process and its child processes."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _start(self) -> None:
        self.file.write_text("")
        self.deadline = time.monotonic() + self.timeout
        words = [sys.executable, "-c", CHILD, json.dumps(sys.path), str(self.file), *self.remaining]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(words, stdin=null, stdout=null, stderr=null, start_new_session=True)
        self.lines_read, self.last_is_broken = 0, False

    def _read(self) -> bool:
        """Read new complete lines of the file and return whether there were any."""
        lines = [line for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        new, self.lines_read = lines[self.lines_read :], len(lines)
        for line in new:
            name, findings = json.loads(line)
            self.findings += [Finding(**finding) for finding in findings]
            self.last_is_broken = findings[0]["state"] == "broken"  # the process ends after a broken package
            self.remaining.remove(name)
        return bool(new)

    def _mark_broken(self, why: str) -> None:
        package = self.packages[self.remaining.pop(0)]
        self.findings.append(package.finding("broken", f"{package.version() or ''} {why}".strip()))


def main(args: Sequence[str]) -> int:
    """Print the findings as a table, as plain text if stdout is no terminal, or as JSON.

    Returns:
        The exit status: 0, or 1 if a part of the base install is missing or broken.
    """
    parser = _Parser(
        prog="framefold doctor",
        description="Report what this machine has and what each missing piece disables.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--json", nargs="?", const="true", default="false", choices=["true", "false"], help="print JSON"
    )
    parser.add_argument("--timeout", type=float, default=60, help="maximum seconds for the import of one package")
    given = parser.parse_args(args)
    if not given.timeout > 0:
        parser.error(f"--timeout must be positive, got {given.timeout:g}")
    if sys.stderr.isatty():
        print("doctor: importing packages, which takes a few seconds ...", file=sys.stderr)
    findings = doctor(given.timeout)
    complete = all(finding.state == "found" for finding in findings if finding.required)
    if given.json == "true":
        print(json.dumps({"ok": complete, "rows": [asdict(finding) for finding in findings]}, indent=1))
        return 0 if complete else 1
    if sys.stdout.isatty() and any(finding.name == "rich" and finding.state == "found" for finding in findings):
        _print_table(findings)
    else:
        print("\n".join(_plain_lines(findings)))
    counts = {state: sum(finding.state == state for finding in findings) for state in COLOURS}
    print(", ".join(f"{count} {state}" for state, count in counts.items()), end=": ")
    print("the base install is complete" if complete else "the base install is NOT complete")
    return 0 if complete else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with one line instead of a usage text."""
        raise SystemExit(f"{message} (options: framefold doctor --help)")


def _plain_lines(findings: Sequence[Finding]) -> list[str]:
    width = max(len(finding.name) for finding in findings)
    lines, group = [], ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines.append(group)
        lines.append(f"  {finding.state:<8}{finding.name:<{width}}  {finding.detail}".rstrip())
        for title, text in (("disables", finding.disables), ("get it", finding.get)):
            lines += [f"  {'':<8}{'':<{width}}  {title}: {text}"] if text else []
    return lines


def _print_table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "version, amount", "what it disables", "how to get it")
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_section()
            table.add_row(Text(group, style="bold"))
        state = Text(finding.state, style=COLOURS[finding.state])
        rest = map(Text, (finding.detail, finding.disables, finding.get))  # Text, so that brackets are not markup
        table.add_row(Text(finding.name), state, *rest)
    Console().print(table)
