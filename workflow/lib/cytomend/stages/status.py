"""Say where each section stands, from the files of a run: run it in the folder where Snakemake runs.

| column | unit | what |
|---|---|---|
| ``section`` | | from the sheet |
| ``state`` | | to plan, planned, mending, mended, blended, evaluated, done, proved wrong, or failed at a rule |
| ``regions`` | | mended, of all in the plan |
| ``GPU min``, ``CPU min`` | min | what finished jobs took to mend regions and trials: GPU time, processor time |
| ``last error`` | | by which the job ended that is in the way, from its log |

``--tsv`` and ``--json`` give the same in full, for scripts: ``section``, ``state``, ``regions_done``, ``regions``,
``gpu_minutes``, ``cpu_minutes``, ``error``, ``log``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cytomend.costs import Hours
from cytomend.errors import InputError
from cytomend.progress import Progress
from cytomend.settings import Record, read_yaml
from cytomend.sheet import named_rows
from cytomend.slurm_queue import Queue, ask_slurm
from cytomend.status import (
    DONE,
    FAILED,
    UNDER_WAY,
    WAITING,
    WRONG,
    Places,
    SectionStatus,
    brain_error,
    by_need,
    gather,
    is_locked,
)
from cytomend.storage.publish import manifest_of
from cytomend.verification import BRAIN, Damage, published, size_bytes, verify, what_follows

WATCH_SECONDS = 5.0
LOOK_SHARE = 0.1
"""Part of the time that watching may spend with looking at the files, which others read too."""

NARROWEST = 60
FEWEST_LINES = 10
NAME_WIDTH = 24
ADDED_LINES = 8
"""Lines of a screen that the head and the totals take."""

RED, GREEN, PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's sheet and folders, and what its trials and its GPU hours amount to."""

    rows: dict[str, Record]
    trials: int
    places: Places
    gpu_hour_cost: float | None
    currency: str

    @classmethod
    def read(cls, configfile: Path, places: Places) -> Run:
        """Read configuration and sheet.

        Raises
        ------
        InputError
            If either cannot be used.
        """
        config = read_yaml(configfile, "config")
        brain = config["brain"]
        rows = named_rows(Path(config["sections"]))
        return cls(
            rows,
            config["evaluate"]["trials"] or config["evaluate"]["patch_trials"],
            places,
            brain["gpu_hour_cost"],
            brain["currency"],
        )

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Return the sections of these names, by default all.

        Raises
        ------
        InputError
            If the sheet has none of a name.
        """
        if unknown := [name for name in names if name not in self.rows]:
            raise InputError(f"section {unknown[0]!r}: not in the sheet, which has {len(self.rows)} sections")
        return list(dict.fromkeys(names)) or list(self.rows)


def record_of(section: SectionStatus) -> dict[str, Any]:
    """Return where a section stands as plain values."""
    return {
        "section": section.section,
        "state": section.state,
        "regions_done": section.regions_done,
        "regions": section.regions,
        "gpu_minutes": round(section.hours.gpu * 60, 2),
        "cpu_minutes": round(section.hours.cpu * 60, 2),
        "error": section.error,
        "log": section.log,
    }


def table(sections: Sequence[SectionStatus], width: int, colour: bool) -> Iterator[str]:
    """Yield the lines of a table of sections, each at most ``width`` characters wide."""
    kinds = [kind for kind in ("gpu", "cpu") if kind == "gpu" or any(section.hours.cpu for section in sections)]
    head = ["section", "state", "regions", *(f"{kind.upper()} min" for kind in kinds), "last error"]
    cells = [
        [
            cut(section.section, NAME_WIDTH),
            section.state,
            "" if section.regions is None else f"{section.regions_done:,}/{section.regions:,}",
            *(f"{getattr(section.hours, kind) * 60:,.1f}" for kind in kinds),
            section.error.removeprefix(f"results/{section.section}/"),
        ]
        for section in sections
    ]
    widths = [max(len(row[column]) for row in [head, *cells]) for column in range(len(head) - 1)]
    widths.append(max(width - sum(widths) - 2 * len(widths), 10))
    for row in [head, *cells]:
        # Numbers are read from their end.
        placed = [
            cut(cell, wide).rjust(wide) if 2 <= column < len(head) - 1 else cut(cell, wide).ljust(wide)
            for column, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(placed).rstrip()[:width]
        shade = RED if row[1].startswith((FAILED, WRONG)) else GREEN if row[1] == DONE else ""
        yield f"{shade}{line}{PLAIN}" if colour and shade else line


def cut(text: str, width: int) -> str:
    """Return a text in one line of at most this width.

    >>> cut("a long sentence", 8), cut("short", 8)
    ('a long …', 'short')
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def totals(sections: Sequence[SectionStatus], run: Run, queue: Queue | None) -> Iterator[str]:
    """Yield what is to be said of all sections together."""
    counts = Counter(section.kind for section in sections)
    order = [FAILED, WRONG, *UNDER_WAY, *WAITING, DONE]
    said = ", ".join(f"{counts[kind]:,} {kind}" for kind in order if counts[kind])
    yield f"{len(sections):,} section{'s' if len(sections) != 1 else ''}: {said}"
    hours = sum((section.hours for section in sections), Hours())
    planned = [section for section in sections if section.regions is not None]
    line = f"{sum(s.regions_done for s in planned):,} of {sum(s.regions or 0 for s in planned):,} regions mended"
    if len(planned) < len(sections):
        line += f" in the {len(planned):,} sections that are planned"
    line += f"; {hours_said(hours.gpu)} GPU hours"
    if run.gpu_hour_cost is not None:
        line += f" ({hours.gpu * run.gpu_hour_cost:,.2f} {run.currency})"
    yield line + (f", {hours_said(hours.cpu)} processor hours without a GPU" if hours.cpu else "")
    if counts[WRONG]:
        yield f"{counts[WRONG]:,} proved wrong: `cytomend verify SECTION` says what is wrong, and what to do."
    if error := brain_error(run.places):
        yield f"The page of all sections could not be written: {error}"
    if is_locked():
        yield (
            "A Snakemake run holds this folder, or one was killed: then wait for its Slurm jobs or `scancel` them,"
            " `snakemake --unlock`, and run again."
        )
    elif counts[DONE] + counts[WRONG] < len(sections):
        yield "No Snakemake run holds this folder: `snakemake` goes on with what is unfinished."
    if queue is not None:
        yield from slurm_lines(queue)


def hours_said(hours: float) -> str:
    """Return hours with two digits that say something, or as whole ones.

    >>> hours_said(0.0268), hours_said(1234.5)
    ('0.027', '1,234')
    """
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


def slurm_lines(queue: Queue) -> Iterator[str]:
    """Yield what is to be said of a run's jobs in Slurm."""
    if queue.silent:
        yield f"Slurm: {queue.silent}; what its jobs wait for is not known."
    if queue.running or queue.pending:
        yield f"Slurm: {queue.running:,} running, {queue.pending:,} waiting."
    for stuck in queue.stuck:
        others = f" and {stuck.jobs - 1:,} more" if stuck.jobs > 1 else ""
        yield (
            f"Slurm: {stuck.job}{others} will never start ({stuck.reason}): {stuck.advice}. End Snakemake, `scancel`"
            " the job, and run again."
        )


def told_in_full(sections: Sequence[SectionStatus]) -> Iterator[str]:
    """Yield the whole error of each section that failed, with its log."""
    for section in sections:
        if section.error:
            yield f"{section.section}, {section.failed_at}: {section.error}"
            yield f"  {section.log}"


def screen(run: Run, args: argparse.Namespace, width: int, most_lines: int | None) -> str:
    """Return all that is shown, as text.

    Parameters
    ----------
    run, args : what is looked at, and what of it is shown
    width : of a line, in characters
    most_lines : of the table; of more sections the last are only counted
    """
    sections = gather(run.rows, run.trials, run.places, run.chosen(args.sections))
    queue = ask_slurm(Path.cwd())
    wanted = [section for section in by_need(sections) if section.failed_at or not args.failed]
    shown = wanted if most_lines is None else wanted[:most_lines]
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    lines = list(table(shown, width, colour)) if shown else []
    if left := Counter(section.kind for section in wanted[len(shown) :]):
        lines.append("and " + ", ".join(f"{count:,} {kind}" for kind, count in left.items()) + ": --all lists them")
    if args.failed or args.sections:
        lines += ["", *told_in_full(shown)] if any(section.error for section in shown) else []
    return "\n".join([*lines, "", *totals(sections, run, queue)])


def show(run: Run, args: argparse.Namespace) -> None:
    """Print where the sections stand, once."""
    if args.json or args.tsv:
        records = [record_of(s) for s in gather(run.rows, run.trials, run.places, run.chosen(args.sections))]
        records = [record for record in records if record["error"] or not args.failed]
        if args.json:
            print(json.dumps(records, indent=1, ensure_ascii=False))
            return
        print("\t".join(record_of(SectionStatus("", "", "", 0, None, Hours()))))
        for record in records:
            print("\t".join(" ".join(str("" if cell is None else cell).split()) for cell in record.values()))
        return
    size = shutil.get_terminal_size((100, 40))
    is_whole = args.all or args.sections or not sys.stdout.isatty()
    most = None if is_whole else max(size.lines - ADDED_LINES, FEWEST_LINES)
    print(screen(run, args, max(size.columns, NARROWEST), most))


def watch(configfile: Path, places: Places, args: argparse.Namespace) -> None:
    """Print where the sections stand again and again, until Ctrl-C.

    Raises
    ------
    InputError
        If there is no terminal.
    """
    if not sys.stdout.isatty():
        raise InputError("--watch: expected a terminal; leave it out to print once")
    try:
        while True:
            begun = time.monotonic()
            size = shutil.get_terminal_size()
            text = screen(
                Run.read(configfile, places),
                args,
                max(size.columns, NARROWEST),
                max(size.lines - ADDED_LINES, FEWEST_LINES),
            )
            took = time.monotonic() - begun
            print(f"\x1b[2J\x1b[H{text}\n{time.strftime('%H:%M:%S')}, Ctrl-C ends", flush=True)
            time.sleep(max(WATCH_SECONDS, took / LOOK_SHARE))
    except KeyboardInterrupt:
        print()


def verify_results(run: Run, names: Sequence[str]) -> int:
    """Read the results of sections through, say what is wrong, set it aside; return how many are damaged."""
    results = run.places.results
    groups = [published(results / name) for name in run.chosen(names)]
    if not names and manifest_of(results / BRAIN).is_file():
        groups.append([results / BRAIN])
    whole = damaged = alone = 0
    with Progress("verify", sum(size_bytes(folder) for group in groups for folder in group), "byte") as progress:
        for group in groups:
            found = list(verify(group, progress.update))
            for folder, what in found:
                if isinstance(what, Damage):
                    damaged += 1
                    files = ", ".join(what.files[:3]) + (f" and {len(what.files) - 3:,} more" if what.files[3:] else "")
                    progress.bar.write(f"{folder}: missing or altered: {files}; set aside: {what_follows(folder)}")
                elif what:
                    alone += 1
                    progress.bar.write(f"{folder}: {what}")
                else:
                    whole += 1
    said = f"{whole:,} results are as they were written, {damaged:,} were damaged"
    print(said + (f", {alone:,} were left alone" if alone else ""))
    return damaged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="sections to look at; by default all")
    parser.add_argument("--configfile", type=Path, default=Path("config/config.yaml"), help="as for Snakemake")
    for name in Places._fields:
        parser.add_argument(f"--{name}", type=Path, default=Path(name), help=f"folder (default: {name})")
    parser.add_argument("--failed", action="store_true", help="only sections with an error, which is given in full")
    parser.add_argument("--all", action="store_true", help="also those for which the screen has no line")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--watch", action="store_true", help="look again every few seconds, until Ctrl-C")
    ways.add_argument("--tsv", action="store_true", help="print a table for scripts, separated by tabs")
    ways.add_argument("--json", action="store_true", help="print a list for scripts")
    ways.add_argument(
        "--verify",
        action="store_true",
        help="read the results through; what is damaged is made to count as unfinished; exit status 1 if anything is",
    )


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    places = Places(args.results, args.logs, args.benchmarks)
    try:
        if args.watch:
            watch(args.configfile, places, args)
            return
        run = Run.read(args.configfile, places)
        if args.verify:
            sys.exit(bool(verify_results(run, args.sections)))
        show(run, args)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `cytomend status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
