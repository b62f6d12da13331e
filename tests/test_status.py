"""Where sections stand, told from folders of a run; and results that no longer hold what was written."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from cytomend import slurm_queue
from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.sheet import named_rows
from cytomend.slurm_queue import advice_on, ask_slurm, read_queue
from cytomend.stages.status import table
from cytomend.status import Places, SectionStatus, gather, last_error, section_status
from cytomend.storage.publish import damaged_files, manifest_of, one_writer, publish

DIARY = "2026-01-02 03:04:05,678 INFO cytomend.stages.mend_shard: section s, region 4: begun\n"
BENCHMARK = "s\th:m:s\tcpu_time\n600.0\t0:10:00\t60.0\n"


class Run:
    """A fabricated run in a folder; sections have two shards and an evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        self.places = Places(folder / "results", folder / "logs", folder / "benchmarks")

    def write(self, place: str, text: str = "") -> Path:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def sheet(self, *names: str) -> None:
        self.names += names
        lines = ["section\timage\tannotation\tpixel_size_um\tshards", *(f"{n}\tx\ty\t1\t2" for n in self.names)]
        self.write("config/sections.tsv", "\n".join(lines) + "\n")
        self.write("config/config.yaml", "sections: config/sections.tsv\nbrain: {gpu_hour_cost: 3}\n")

    def result(self, section: str, name: str, **record: object) -> Path:
        return self.write(f"results/{section}/{name}.manifest.json", json.dumps(record))

    def advance(self, section: str, stage: str) -> None:
        """Make what a section has when it has reached a stage."""
        if section not in self.names:
            self.sheet(section)
        reached = ["to plan", "planned", "mending", "mended", "blended", "evaluated", "done"].index(stage)
        if reached >= 1:
            self.result(section, "plan", regions=10, sha256="this plan")
        if reached == 2:
            regions = f"results/{section}/mended/.1.zarr.work/regions"
            for name in ("4.npz", "7.npz", ".9.npz.123.npz"):
                self.write(f"{regions}/{name}")
        for shard in range({2: 1}.get(reached, 2 * (reached >= 3))):
            self.result(section, f"mended/{shard}", regions=5, gpus=1)
            self.write(f"benchmarks/mend_shard/{section}.{shard}.tsv", BENCHMARK)
        if reached >= 4:
            self.result(section, "corrected")
        if reached >= 5:
            self.result(section, "trials", gpus=1)
            self.write(f"benchmarks/mend_trials/{section}.tsv", BENCHMARK)
            self.result(section, "evaluation")
        if reached >= 6:
            self.write(f"results/{section}/report/index.html")
            self.write(f"results/{section}/report/metrics.json")

    def of(self, section: str) -> SectionStatus:
        return section_status(section, 2, True, self.places)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in the working directory, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_queue.shutil, "which", lambda _: None)
    return Run(tmp_path)


STAGES = {"to plan": 0, "planned": 0, "mending": 7, "mended": 10, "blended": 10, "evaluated": 10, "done": 10}


@pytest.mark.parametrize("stage", STAGES)
def test_the_stage_reached_and_the_regions_done_are_told_from_the_files(run, stage):
    run.advance("s", stage)
    found = run.of("s")
    assert (found.state, found.regions_done) == (stage, STAGES[stage])
    assert found.regions == (None if stage == "to plan" else 10)
    assert found.hours.gpu * 6 == pytest.approx(
        {"mending": 1, "mended": 2, "blended": 2}.get(stage, 3 * (STAGES[stage] > 0))
    )


@pytest.mark.parametrize(
    ("stage", "rule", "log"),
    [
        ("to plan", "plan_section", "plan_section/s.log"),
        ("planned", "mend_shard", "mend_shard/s.0.log"),
        ("mending", "mend_shard", "mend_shard/s.1.log"),
        ("mending", "mend_trials", "mend_trials/s.log"),
        ("mended", "blend_section", "blend_section/s.log"),
        ("blended", "verify_section", "verify_section/s.log"),
        ("evaluated", "report_section", "report_section/s.log"),
    ],
)
def test_a_failed_job_is_named_with_its_error(run, stage, rule, log):
    run.advance("s", stage)
    place = run.write(f"logs/{log}", DIARY + "cytomend any-stage: a.tif: is cut off\n")
    found = run.of("s")
    assert (found.state, found.error) == (f"failed at {rule}", "a.tif: is cut off")
    assert Path(found.log) == place


def test_errors_that_are_over_are_not_told(run):
    run.advance("s", "done")
    for rule in ("plan_section", "blend_section", "report_section"):
        run.write(f"logs/{rule}/s.log", "cytomend x: an error of an earlier attempt\n")
    assert run.of("s").state == "done"
    run.advance("t", "mended")
    old = run.write("logs/blend_section/t.log", "cytomend blend-section: older than what it would read\n")
    os.utime(old, (1, 1))
    assert run.of("t").state == "mended"
    run.write("logs/mend_shard/u.0.log", "cytomend mend-shard: of a plan that is being made anew\n")
    run.advance("u", "to plan")
    assert run.of("u").state == "to plan"


def test_what_an_earlier_plan_mended_counts_no_more_but_a_copied_folder_does(run):
    run.advance("s", "done")
    for shard in range(2):
        os.utime(run.folder / f"results/s/mended/{shard}.manifest.json", (1, 1))
        run.write(f"results/s/mended/{shard}.zarr/zarr.json", json.dumps({"attributes": {"plan": "this plan"}}))
    assert run.of("s").state == "done"
    run.write("results/s/mended/1.zarr/zarr.json", json.dumps({"attributes": {"plan": "another"}}))
    found = run.of("s")
    assert (found.state, found.regions_done) == ("mending", 5)


def test_a_shard_that_was_set_aside_when_its_pyramid_was_whole_is_not_missed(run):
    run.advance("s", "done")
    (run.folder / "results/s/mended/1.manifest.json").unlink()
    assert (run.of("s").state, run.of("s").regions_done) == ("done", 10)
    run.write("results/s/mended/.1.zarr.work/regions/4.npz")
    assert (run.of("s").state, run.of("s").regions_done) == ("mending", 6)


def test_a_section_without_trials_is_done_without_an_evaluation(run):
    run.advance("s", "done")
    (run.folder / "results/s/evaluation.manifest.json").unlink()
    assert section_status("s", 2, False, run.places).state == "done"
    assert run.of("s").state == "blended"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", ""),
        (DIARY, ""),
        (DIARY + "results/s/plan.manifest.json\n", ""),
        (DIARY + "/lib/x.py:3: UserWarning: failed to be quiet\n  warnings.warn(\n", ""),
        (DIARY + "cytomend plan-section: a.tif: is cut off\n", "a.tif: is cut off"),
        (DIARY + "cytomend: killed by SIGKILL: usually memory ran out\n", "killed by SIGKILL: usually memory ran out"),
        (
            DIARY + "cytomend mend-shard, worker 1: no room\ncytomend mend-shard: worker 1 of 2 ended with status 1 ;"
            " its reason stands above, if it gave one\n",
            "no room",
        ),
        (
            DIARY + 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    g()\nKeyError: 4\nregion 4\n',
            "KeyError: 4 (region 4)",
        ),
        (DIARY + "slurmstepd: error: *** JOB 7 CANCELLED ***", "slurmstepd: error: *** JOB 7 CANCELLED ***"),
        ("/bin/bash: python: command not found\n", "/bin/bash: python: command not found"),
    ],
)  # fmt: skip
def test_the_last_error_of_a_log_is_a_sentence(log, error):
    assert last_error(log) == error


def test_a_section_that_is_proved_wrong_is_not_called_done(run, capsys):
    for name in ("a", "b", "c"):
        run.advance(name, "done")
    run.write("results/a/verdict.json", json.dumps({"holds": True, "wrong": []}))
    run.write("results/c/verdict.json", json.dumps({"holds": False, "wrong": ["0: 7 px differ from the scan"]}))
    assert [run.of(name).state for name in "abc"] == ["done", "done", "proved wrong"]
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("c")
    assert "7 px differ from the scan" in lines[1]
    assert "3 sections: 1 proved wrong, 2 done" in lines
    assert any(line.startswith("1 proved wrong: `cytomend verify SECTION`") for line in lines)


def test_the_table_puts_what_needs_a_person_first_and_names_errors_and_totals(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # of the terminal
    for name, stage in {"a": "done", "b": "mended", "c": "to plan", "d": "mending"}.items():
        run.advance(name, stage)
    run.write("logs/blend_section/b.log", "cytomend blend-section: results/b/corrected.ome.zarr: the disk is full\n")
    run.write(".snakemake/locks/0.input.lock")
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["b", "d", "c", "a"]
    assert re.search(r"b +failed at blend_section +10/10 +20\.0 +corrected\.ome\.zarr: the disk is full", lines[1])
    assert "4 sections: 1 failed, 1 mending, 1 to plan, 1 done" in lines
    assert "27 of 30 regions mended in the 3 sections that are planned; 1 GPU hours (3.00 EUR)" in lines
    assert lines[-1].startswith("A Snakemake run holds this folder, or one was killed")
    assert main(["status", "--failed"]) == 0
    out = capsys.readouterr().out
    assert "logs/blend_section/b.log" in out
    assert "\nd " not in out


def test_scripts_get_tables_and_lists(run, capsys):
    run.advance("a", "done")
    run.advance("b", "to plan")
    assert main(["status", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == {
        "section": "a", "state": "done", "regions_done": 10, "regions": 10,
        "gpu_minutes": 30.0, "cpu_minutes": 0.0, "error": "", "log": "",
    }  # fmt: skip
    assert second["regions"] is None
    assert main(["status", "--tsv", "b"]) == 0
    assert capsys.readouterr().out.splitlines() == ["\t".join(first), "b\tto plan\t0\t\t0.0\t0.0\t\t"]


def test_no_line_is_wider_than_the_screen(run):
    run.advance("a-section-with-a-name-that-is-far-too-long-for-a-table", "mended")
    run.write(f"logs/blend_section/{run.names[0]}.log", "cytomend blend-section: " + "a long sentence " * 30)
    for width in (60, 100, 160):
        lines = list(table([run.of(run.names[0])], width, colour=False))
        assert max(map(len, lines)) <= width
        assert width == 60 or lines[1].endswith("…")


def test_an_unknown_section_and_a_missing_sheet_are_named(run, capsys):
    run.advance("a", "done")
    assert main(["status", "b"]) == 2
    assert "section 'b': not in the sheet" in capsys.readouterr().err
    (run.folder / "config/sections.tsv").unlink()
    assert main(["status"]) == 2
    assert "config/sections.tsv" in capsys.readouterr().err
    assert main(["status", "--watch"]) == 2
    assert "expected a terminal" in capsys.readouterr().err


def test_the_rows_of_a_sheet_are_read_while_its_files_are_missing(run):
    run.write("s.tsv", "section\timage\tshards\ttrials\n# a comment\nb\tnone.tif\t3\t0\na\tnone.tif\tx\t\n")
    rows = named_rows(run.folder / "s.tsv")
    assert list(rows) == ["b", "a"]
    assert (rows["b"]["shards"], rows["b"]["trials"]) == (3, 0)
    assert rows["a"]["shards"] == 1
    assert "trials" not in rows["a"]
    with pytest.raises(InputError, match="row 2: has no name"):
        named_rows(run.write("t.tsv", "section\timage\n\tx.tif\n"))


def test_a_brain_is_looked_at_within_seconds(run):
    run.advance("s", "done")
    for name in (names := [f"B20_{i:04d}" for i in range(7404)]):
        (run.folder / "results" / name).symlink_to("s")
    began = time.process_time()
    found = gather({name: {"shards": 2} for name in names}, 16, run.places, names)
    assert time.process_time() - began < 20  # two on a machine with nothing else to do
    assert {section.state for section in found} == {"done"}


# --- Slurm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason",
    [
        "PartitionTimeLimit", "BadConstraints", "ReqNodeNotAvail, UnavailableNodes:g1", "QOSMaxWallDurationPerJobLimit",
        "QOSMaxGRESPerJob", "AssocMaxCpuPerJobLimit", "InvalidAccount", "InvalidQOS", "PartitionDown",
        "PartitionNodeLimit", "JobHeldAdmin", "DependencyNeverSatisfied",
    ],
)  # fmt: skip
def test_reasons_that_no_waiting_resolves_have_an_advice(reason):
    assert advice_on(reason)


@pytest.mark.parametrize(
    "reason",
    ["Resources", "Priority", "None", "", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "Dependency", "BeginTime"],
)  # fmt: skip
def test_reasons_that_resolve_by_waiting_have_none(reason):
    assert not advice_on(reason)


def test_stuck_jobs_of_this_folder_are_named_once_for_each_reason(tmp_path):
    lines = [
        f"7|PENDING|PartitionTimeLimit|{tmp_path}|rule_mend_shard_wildcards_B07_0",
        f"8|PENDING|PartitionTimeLimit|{tmp_path}|rule_mend_shard_wildcards_B07_1",
        f"9|PENDING|Priority|{tmp_path}|rule_plan_section_wildcards_B08",
        f"10|RUNNING|None|{tmp_path}|rule_plan_section_wildcards_B09",
        "11|PENDING|InvalidAccount|/elsewhere|rule_plan_section_wildcards_B07",
    ]
    queue = read_queue("\n".join(lines), tmp_path)
    assert (queue.running, queue.pending) == (1, 3)
    (stuck,) = queue.stuck
    assert (stuck.job, stuck.jobs, stuck.reason) == ("mend_shard B07_0 (job 7)", 2, "PartitionTimeLimit")
    assert "runtime" in stuck.advice


def squeue(folder: Path, monkeypatch, script: str) -> None:
    """Put a program of this name on the path."""
    (folder / "bin").mkdir()
    (folder / "bin/squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_slurm_is_asked_and_its_silence_is_told(tmp_path, monkeypatch, capsys):
    run = Run(tmp_path)
    run.advance("s", "to plan")
    monkeypatch.chdir(tmp_path)
    squeue(tmp_path, monkeypatch, f"echo '7|PENDING|BadConstraints|{tmp_path}|rule_mend_shard_wildcards_s_0'")
    assert main(["status"]) == 0
    assert "mend_shard s_0 (job 7) will never start (BadConstraints)" in capsys.readouterr().out
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(slurm_queue, "ANSWER_SECONDS", 0.3)
    began = time.monotonic()
    queue = ask_slurm(tmp_path)
    assert queue is not None
    assert "did not answer" in queue.silent
    assert time.monotonic() - began < 10
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: no controller' >&2; exit 1\n")
    assert main(["status"]) == 0
    assert "no controller" in capsys.readouterr().out


# --- results that are read through ----------------------------------------------------------------------------------


@pytest.fixture
def whole(run):
    """A run with one section whose results are really published, and the evaluation of all sections."""
    run.sheet("s")
    results = ("plan", "mended/0.zarr", "mended/1.zarr", "corrected.ome.zarr", "trials.zarr", "evaluation")
    for place in [*(f"results/s/{name}" for name in results), "results/brain/evaluation"]:
        folder = run.folder / place
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_writer(folder) as work:
            (work / "c").mkdir()
            (work / "c" / "0").write_bytes(b"chunk" * 100)
            (work / "zarr.json").write_text("{}")
            publish(work, folder, {"regions": 5})
    run.write("results/s/report/index.html")
    run.write("results/s/report/metrics.json")
    return run


def test_whole_results_stay(whole, capsys):
    assert run_verify() == 0
    assert "7 results are as they were written, 0 were damaged" in capsys.readouterr().out
    assert whole.of("s").state == "done"


def run_verify(*names: str) -> int:
    try:
        return main(["status", "--verify", *names])
    except SystemExit as end:
        return int(end.code or 0)


def alter(place: Path) -> None:
    place.write_bytes(b"chunk" * 99 + b"chunl")


@pytest.mark.parametrize(
    ("place", "told", "follows"),
    [
        ("s/corrected.ome.zarr/c/0", "missing or altered: c/0", "the next `snakemake` makes it again"),
        ("s/evaluation/c/0", "missing or altered: c/0", "the next `snakemake` makes it again"),
        ("s/mended/1.zarr/c/0", "missing or altered: c/0", "what was made from it (corrected.ome.zarr) is unharmed"),
        ("s/trials.zarr/c/0", "missing or altered: c/0", "what was made from it (evaluation) is unharmed"),
        (
            "s/plan/c/0",
            "missing or altered: c/0",
            "what was made from it (corrected.ome.zarr and evaluation) is unharmed",
        ),
        ("s/plan/checksums.tsv", "missing or altered: checksums.tsv", "what was made from it"),
        ("brain/evaluation/c/0", "missing or altered: c/0", "the next `snakemake` makes it again"),
    ],
)
@pytest.mark.parametrize("harm", [alter, Path.unlink])
def test_a_damaged_result_is_named_and_counts_as_unfinished(whole, capsys, place, told, follows, harm):
    path = whole.folder / "results" / place
    folder = next(parent for parent in path.parents if manifest_of(parent).exists())
    harm(path)
    assert run_verify() == 1
    out = capsys.readouterr().out
    assert f"{folder.relative_to(whole.folder)}: {told}; set aside: {follows}" in out
    assert "6 results are as they were written, 1 were damaged" in out
    assert not manifest_of(folder).exists()
    assert run_verify() == 0


def test_a_shard_and_its_pyramid_that_are_both_damaged_are_both_made_again(whole, capsys):
    for place in ("mended/0.zarr", "corrected.ome.zarr"):
        alter(whole.folder / "results/s" / place / "c/0")
    assert run_verify("s") == 1
    assert capsys.readouterr().out.count("the next `snakemake` makes it again") == 2


def test_a_lost_folder_and_a_broken_manifest_are_damage(whole, capsys):
    shutil.rmtree(whole.folder / "results/s/trials.zarr")
    manifest_of(whole.folder / "results/s/plan").write_text("{")
    assert run_verify() == 1
    out = capsys.readouterr().out
    assert "results/s/trials.zarr: missing or altered: the whole folder" in out
    assert "results/s/plan: missing or altered: plan.manifest.json" in out


def test_a_result_that_is_being_written_or_unfinished_is_left_alone(whole, capsys):
    folder = whole.folder / "results/s/mended/0.zarr"
    alter(folder / "c/0")
    alter(whole.folder / "results/s/mended/1.zarr/c/0")
    manifest_of(whole.folder / "results/s/mended/1.zarr").unlink()
    with (folder.parent / ".0.zarr.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_verify() == 0
    assert "results/s/mended/0.zarr: is being written: left alone" in capsys.readouterr().out
    assert manifest_of(folder).exists()
    # What a killed process left behind protects nothing.
    (folder.parent / ".0.zarr.lock").touch()
    assert run_verify() == 1
    assert damaged_files(folder) == ["c/0"]


def test_only_the_chosen_sections_are_read(whole):
    whole.sheet("t")
    alter(whole.folder / "results/brain/evaluation/c/0")
    alter(whole.folder / "results/s/plan/c/0")
    assert run_verify("t") == 0
    assert run_verify() == 1
