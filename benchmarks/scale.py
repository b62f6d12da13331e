"""How long Snakemake thinks about a brain: 7,404 simulated sections, the number of BigBrain's.

Nothing is planned, mended or drawn: the results of all stages are empty files, and Snakemake is told that it made them.
What is measured is the real Snakefile on real sheets: seconds on the clock, peak memory and jobs of dry runs, for a
fresh brain, a finished one, one with one changed section, and one tenth of it (``--batch``), beside a bare workflow of
as many jobs.

    python benchmarks/scale.py [--sections 7404] [--keep FOLDER]

With ``--mpx-per-s``, as `benchmarks/mend.py` prints it, it projects GPU hours and disk for the whole brain instead,
from that and from the bytes that a finished section takes. Nothing else is known of the brain: its size, a share of
damage, and that damage is mended at that rate on every GPU, wherever it lies.

    python benchmarks/scale.py --mpx-per-s 0.012 --section results/phantom-1
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TARGET_SECONDS, TARGET_MB = 60, 1500


def build(folder: Path, sections: int) -> None:
    """Write a checkout with a sheet of sections whose scans and masks are files of a few bytes."""
    for part in ("Snakefile", "workflow", "profiles", "envs", "models"):
        source = CHECKOUT / part
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    (folder / "config").mkdir()
    shutil.copy(CHECKOUT / "config" / "config.yaml", folder / "config")
    (folder / "data").mkdir()
    with (folder / "config" / "sections.tsv").open("w", newline="") as file:
        sheet = csv.writer(file, delimiter="\t")
        sheet.writerow(("section", "image", "annotation", "pixel_size_um", "stain"))
        for number in range(sections):
            name = f"B20_{number:04d}"
            for kind in ("tif", "geojson"):
                (folder / "data" / f"{name}.{kind}").write_text(f"{kind} {number}")
                os.utime(folder / "data" / f"{name}.{kind}", (1_600_000_000, 1_600_000_000))
            sheet.writerow((name, f"data/{name}.tif", f"data/{name}.geojson", "1.0", "cell bodies"))


BARE = """
SECTIONS = [f"B20_{{number:04d}}" for number in range({sections})]
rule all:
    input: expand("results/{{section}}/{last}", section=SECTIONS)
"""
"""A workflow of as many jobs without settings, functions or resources: what Snakemake itself takes."""

STEPS = ("plan", "mended", "corrected", "trials", "evaluation", "report")


def build_bare(folder: Path, sections: int) -> None:
    """Write a Snakefile with six bare jobs a section, one after the other."""
    folder.mkdir()
    text = BARE.format(sections=sections, last=STEPS[-1])
    for i, step in enumerate(STEPS):
        text += f"rule {step}:\n"
        text += f'    input: "results/{{section}}/{STEPS[i - 1]}"\n' if i else ""
        text += f'    output: "results/{{section}}/{step}"\n    shell: "touch {{output}}"\n\n\n'
    (folder / "Snakefile").write_text(text)


def finish(folder: Path, sections: int) -> None:
    """Put empty files where results would be; the plans' manifests say which editions were planned, as real ones do."""
    sys.path.insert(0, str(CHECKOUT / "workflow" / "lib"))
    from cytomend.storage.edition import read_source

    for number in range(sections):
        name = f"B20_{number:04d}"
        result = folder / "results" / name
        for place in ("plan", "mended/0.zarr", "corrected.ome.zarr", "trials.zarr", "evaluation", "report"):
            (result / place).mkdir(parents=True)
        roles = {"image": "tif", "annotation": "geojson"}
        sources = {role: read_source(folder / "data" / f"{name}.{kind}").record() for role, kind in roles.items()}
        (result / "plan.manifest.json").write_text(json.dumps({"section": name, "sources": sources}))
        for place in (
            "mended/0.manifest.json",
            "corrected.manifest.json",
            "trials.manifest.json",
            "evaluation.manifest.json",
            "report/index.html",
            "report/metrics.json",
        ):
            (result / place).touch()
    for place in ("report", "evaluation"):
        (folder / "results" / "brain" / place).mkdir(parents=True)
    for place in ("metrics.tsv", "report/index.html"):
        (folder / "results" / "brain" / place).touch()
    (folder / "results" / "brain" / "evaluation.manifest.json").touch()


RECORD = """
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(scheduler):
    async def record():
        for job in scheduler.workflow.dag.jobs:
            await scheduler.workflow.persistence.finished(job)
    scheduler.workflow.async_run(record())
    return True

JobScheduler.schedule = schedule
main()
"""
"""Snakemake that runs no job and writes down that it ran all; ``--touch`` would take half an hour."""


def snakemake(folder: Path, *options: str, program: tuple[str, ...] = ("-m", "snakemake")) -> tuple[float, float, int]:
    """Run Snakemake and return seconds, peak memory in MB, and the jobs that it would run."""
    since = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *program, "--scheduler", "greedy", *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": ""},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - since
        output.seek(0)
        text = output.read()
    if status:
        raise SystemExit(f"snakemake {' '.join(options)} failed:\n{text[-3000:]}")
    found = re.findall(r"^total\s+(\d+)", text, flags=re.MULTILINE)
    return seconds, used.ru_maxrss / 1e3, int(found[-1]) if found else 0


SECTION_PX = (98_304, 81_920)
"""A section of BigBrain."""

DAMAGE = (0.001, 0.005, 0.01, 0.02)
"""Shares of a section's pixels that are mended."""


def project(sections: int, mpx_per_s: float, section: Path) -> None:
    """Print GPU hours and disk for a brain."""
    shape = json.loads((section / "report" / "metrics.json").read_text())["shape"]
    corrected, mended, plan = (folder_bytes(section / name) for name in ("corrected.ome.zarr", "mended", "plan"))
    pixels, masked = shape[0] * shape[1], json.loads((section / "corrected.manifest.json").read_text())["masked_px"]
    whole = sections * SECTION_PX[0] * SECTION_PX[1]
    print(f"{sections} sections of {SECTION_PX[0]} x {SECTION_PX[1]} px: {whole / 1e12:.1f} Tpx.")
    print(
        f"Assumed: {mpx_per_s:g} Mpx mended a second and GPU; {corrected / pixels:.2f} bytes a pixel of the corrected"
    )
    print(f"pyramid with its labels, {(mended + plan) / masked:.2f} bytes a mended pixel in stores ({section}).\n")
    print("| damage | mended (Gpx) | GPU hours | days on 16 GPUs | corrected (TB) | plans and shards (TB) |")
    print("|---|---|---|---|---|---|")
    for share in DAMAGE:
        hours = whole * share / (mpx_per_s * 1e6) / 3600
        stores = (mended + plan) / masked * whole * share
        print(
            f"| {share:.1%} | {whole * share / 1e9:,.0f} | {hours:,.0f} | {hours / 16 / 24:,.1f} |"
            f" {corrected / pixels * whole / 1e12:.0f} | {stores / 1e12:.2f} |"
        )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=7404)
    parser.add_argument("--keep", type=Path, help="build in this folder, which must not exist, and leave it")
    parser.add_argument("--mpx-per-s", type=float, help="megapixels mended a second, as benchmarks/mend.py prints")
    parser.add_argument("--section", type=Path, help="results of a finished section, such as results/phantom-1")
    args = parser.parse_args()
    if (args.mpx_per_s is None) != (args.section is None):
        parser.error("--mpx-per-s and --section belong together")
    if args.section:
        project(args.sections, args.mpx_per_s, args.section)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)) / "brain"
        folder.mkdir(parents=True)
        build(folder, args.sections)
        print(f"{args.sections} simulated sections (empty results); targets for 7,404 on two cores:", end=" ")
        print(f"fresh and no-op at most {TARGET_SECONDS} s and {TARGET_MB} MB\n")
        print("| dry run | seconds | peak MB | jobs |\n|---|---|---|---|")
        dry = ("--dry-run", "--quiet", "rules")

        def row(what: str, *options: str) -> None:
            seconds, mb, jobs = snakemake(folder, *options)
            print(f"| {what} | {seconds:.0f} | {mb:.0f} | {jobs:,} |", flush=True)

        build_bare(folder.with_name("bare"), args.sections)
        seconds, mb, jobs = snakemake(folder.with_name("bare"), "--cores", "2", *dry)
        print(
            f"| fresh, a bare workflow of six jobs a section beside it | {seconds:.0f} | {mb:.0f} | {jobs:,} |",
            flush=True,
        )
        row("fresh", *dry)
        seconds, mb, _ = snakemake(folder, "--dry-run", "--quiet", "rules", "progress")
        print(
            f"| fresh, the graph alone (--quiet rules progress lists no job) | {seconds:.0f} | {mb:.0f} | |", flush=True
        )
        row("fresh, one in ten batches", *dry, "--batch", "all=1/10")
        job = ("--mode", "remote", "--target-jobs", "plan_section:section=B20_0003")
        seconds, mb, _ = snakemake(folder, *dry, *job)
        print(f"| what a job's own Snakemake reads on its node | {seconds:.0f} | {mb:.0f} | |", flush=True)
        since = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "cytomend", "mend-shard", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        print(f"| (starting the stage that mends, imports alone) | {time.monotonic() - since:.0f} | | |", flush=True)
        finish(folder, args.sections)
        snakemake(folder, "--touch", "--quiet", "all", program=("-c", RECORD))
        row("no-op", *dry)
        (folder / "data" / "B20_0003.geojson").write_text("another mask")
        row("one section changed", *dry)


if __name__ == "__main__":
    main()
