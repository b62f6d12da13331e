"""What breaks under a run, with real processes and disks: nothing half-done counts, and a rerun ends the same.

Faults of a cluster are in test_slurm.py, those inside a stage in test_mend.py and test_publish.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import PYRAMID, as_json, blobs, mend_by_stages, mend_settings, plan_settings
from test_mend import MANY, SMALL_GROUPS, command
from test_workflow import Lab, tiny_checkpoint, wait_for  # noqa: F401 - fixtures

from cytomend.cli import main
from cytomend.stages.plan_section import plan_section
from cytomend.storage.publish import CHECKSUMS, checksums, manifest_of, require_intact

CORRECTED = "results/left/corrected.manifest.json"
PAGE = "results/left/report/index.html"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Lab:  # noqa: F811
    """A lab whose left section was corrected without any fault."""
    lab = new_lab(tmp_path_factory.mktemp("lab") / "a lab", tiny_checkpoint)
    lab.snakemake(CORRECTED)
    return lab


def new_lab(folder: Path, checkpoint: Path) -> Lab:
    """Return a lab without trials that has not run yet."""
    folder.mkdir()
    lab = Lab(folder, checkpoint)
    lab.config["evaluate"]["trials"] = 0
    lab.write()
    return lab


@pytest.fixture
def mounted() -> Iterator[Callable[..., None]]:
    """A function that mounts something at a folder, until the end of the test."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a disk")
    folders: list[Path] = []

    def mount(folder: Path, *words: str | Path) -> None:
        folder.mkdir(exist_ok=True)
        if subprocess.run(["mount", *words, folder], check=False, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a disk")
        folders.append(folder)

    yield mount
    for folder in folders:
        subprocess.run(["umount", folder], check=True)


def forget(lab: Lab, *stages: str) -> None:
    """Delete what stages have made of the left section."""
    for stage in stages:
        for path in (lab.folder / "results" / "left").glob(f"{stage}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def failed(run: subprocess.Popen[str]) -> str:
    output = run.communicate()[0]
    assert run.returncode == 1, output
    return output


# A full disk


class Disk:
    """A small disk that can be filled."""

    def __init__(self, place: Path) -> None:
        self.place, self.ballast = place, place / "of others"

    def leave(self, free: int) -> None:
        """Fill it up to some free bytes."""
        self.ballast.unlink(missing_ok=True)
        self.ballast.write_bytes(bytes(shutil.disk_usage(self.place).free - free))


def test_a_run_whose_disk_is_full_says_so_and_goes_on_when_there_is_space(
    undisturbed: Lab, tmp_path: Path, mounted: Callable[..., None]
) -> None:
    disk = Disk(tmp_path / "disk")
    mounted(disk.place, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    lab = undisturbed.copy(tmp_path / "lab")
    forget(lab, "mended", "corrected")
    shutil.copytree(lab.folder / "results", disk.place, dirs_exist_ok=True)
    shutil.rmtree(lab.folder / "results")
    (lab.folder / "results").symlink_to(disk.place)

    for stage, free in {"mend_shard": 16_000, "blend_section": 150_000}.items():
        disk.leave(free)
        output = failed(lab.start(CORRECTED))
        log = next(lab.folder.glob(f"logs/{stage}/left*.log")).read_text().splitlines()[-1]
        assert re.search(
            r"results/left/.*: the disk is full \(0 MB free at .*\); free some space and run again", log
        ), log
        assert log in output
        assert f"Error in rule {stage}" in output
        assert not (lab.folder / CORRECTED).exists()
    disk.ballast.unlink()
    lab.snakemake(CORRECTED)
    np.testing.assert_array_equal(lab.corrected("left"), undisturbed.corrected("left"))


# A store that is damaged between two stages


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


CHUNK, ALTERED, LIST = "pixels/c/0/0/0/0", "missing or altered since it was written: ", "expected the checksums"
DAMAGES = [
    pytest.param(CHUNK, flip_a_byte, ALTERED + CHUNK, id="a flipped byte"),
    pytest.param(CHUNK, cut, ALTERED + CHUNK, id="a truncated chunk"),
    pytest.param(CHUNK, Path.unlink, ALTERED + CHUNK, id="a lost chunk"),
    pytest.param("region/c/0", flip_a_byte, ALTERED + "region/c/0", id="other regions"),
    pytest.param(
        "pixels/zarr.json",
        empty,
        ALTERED + "pixels/zarr.json",
        id="an empty description",
    ),
    pytest.param(CHECKSUMS, empty, LIST, id="no checksums left"),
    pytest.param(CHECKSUMS, flip_a_byte, LIST, id="altered checksums"),
]


@pytest.mark.parametrize(("name", "damage", "finding"), DAMAGES)
def test_a_damaged_store_is_not_blended_and_doing_what_the_log_says_mends_it(
    make_section, tiny_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage, finding: str
) -> None:
    section, store, out = (
        make_section(blobs((100, 120), (20, 30, 34, 60))),
        tmp_path / "0.zarr",
        tmp_path / "other.zarr",
    )
    undisturbed = checksums(mend_by_stages(section, tiny_model(), tmp_path))
    damage(store / name)
    words = {"image": section.image, "plan": tmp_path / "plan", "shards": [store], "settings": as_json(PYRAMID)}
    assert main(command("blend-section", **words, out=out)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{store}: expected the store of a mended shard" in said
    assert finding in said
    assert f"delete {manifest_of(store)} and run again" in said
    assert not list(tmp_path.glob("*other*"))
    manifest_of(store).unlink()
    assert checksums(mend_by_stages(section, tiny_model(), tmp_path)) == undisturbed
    require_intact(store)


# Inputs that may not be written to


def test_inputs_that_cannot_be_written_are_enough(
    undisturbed: Lab,
    tmp_path: Path,
    tiny_checkpoint: Path,  # noqa: F811
    mounted: Callable[..., None],
) -> None:
    lab = new_lab(tmp_path / "lab", tiny_checkpoint)
    data = lab.folder / "data"
    before = sorted((path.name, path.stat().st_mtime_ns) for path in data.iterdir())
    mounted(data, "-o", "bind,ro", data)
    with pytest.raises(OSError, match="Read-only"):
        (data / "new").touch()
    lab.snakemake(PAGE)
    np.testing.assert_array_equal(lab.corrected("left"), undisturbed.corrected("left"))
    assert sorted((path.name, path.stat().st_mtime_ns) for path in data.iterdir()) == before


# A stage that is killed at any moment

processes = multiprocessing.get_context("forkserver")  # which imports torch only once
processes.set_forkserver_preload(["pytest", *(f"cytomend.stages.{name}" for name in ("mend_shard", "blend_section"))])


def run_stage(words: list[str]) -> multiprocessing.process.BaseProcess:
    """Start a stage that mends region by region in a process of its own."""
    program = f"{SMALL_GROUPS}from cytomend.cli import main; raise SystemExit(main({words}))"
    process = processes.Process(target=exec, args=(program,))
    process.start()
    return process


def undisturbed_run(words: list[str]) -> float:
    """Run a stage and return the seconds it took."""
    since, process = time.monotonic(), run_stage(words)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - since


def killed_run(words: list[str], seconds: float, since: Callable[[], bool]) -> None:
    """Run a stage and kill it some time after something happened, unless it has ended by then."""
    process = run_stage(words)
    while process.is_alive() and not since():
        time.sleep(0.0005)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)


KILLS = 14
KILLS_WHEN_PUBLISHING = 6


@pytest.mark.parametrize("stage", ["mend-shard", "blend-section"])
def test_a_stage_killed_at_any_moment_leaves_nothing_wrong_and_ends_with_the_same_bytes(
    make_section,
    tiny_model,
    tmp_path: Path,
    stage: str,
) -> None:
    section, plan = make_section(MANY), tmp_path / "plan"
    plan_section(section.image, section.annotation, plan_settings(), plan)
    words = {"image": section.image, "plan": plan}
    mending = {"shard": 0, "model": tiny_model(), "settings": as_json(mend_settings(steps=12)), "threads": 1}
    if stage == "mend-shard":
        words |= {**mending, "device": "cpu"}
    else:
        store = tmp_path / "0.zarr"
        undisturbed_run(command("mend-shard", **words, **mending, device="cpu", out=store))
        words |= {"shards": [store], "settings": json.dumps({"chunk_px": 64, "shard_px": 64})}
    expected, out = tmp_path / "undisturbed" / "it.zarr", tmp_path / "killed" / "it.zarr"
    undisturbed_run(command(stage, **words, out=expected))
    whole = undisturbed_run(command(stage, **words, out=tmp_path / "timed" / "it.zarr"))

    def publishing() -> bool:
        return any((out.parent / ".it.zarr.work" / place / CHECKSUMS).exists() for place in ("", "store"))

    chance, ended = random.Random(5), 0
    moments = [(chance.uniform(0, whole), lambda: True) for _ in range(KILLS)]
    moments += [(chance.uniform(0, 0.01), publishing) for _ in range(KILLS_WHEN_PUBLISHING)]
    for seconds, since in moments:
        killed_run(command(stage, **words, out=out), seconds, since)
        if manifest_of(out).exists():
            ended += 1
            assert_the_same(out, expected)
            manifest_of(out).unlink()
            shutil.rmtree(out)
    assert ended < len(moments), "every kill came too late"
    undisturbed_run(command(stage, **words, out=out))
    assert_the_same(out, expected)
    assert {path.name for path in out.parent.iterdir()} == {"it.zarr", "it.manifest.json"}


def assert_the_same(out: Path, expected: Path) -> None:
    """Compare two published stores byte by byte."""
    assert manifest_of(out).read_text() == manifest_of(expected).read_text()
    assert (out / CHECKSUMS).read_text() == (expected / CHECKSUMS).read_text()
    require_intact(out)


# The last lines of the log of a job that was ended


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGTERM, "stopped by SIGTERM: it was cancelled, or its time was over"),
        (signal.SIGKILL, "killed by SIGKILL"),
    ],
)
def test_the_log_of_a_job_that_is_ended_closes_with_section_region_and_cause(
    make_section,
    tiny_model,
    tmp_path: Path,
    number: int,
    cause: str,
) -> None:
    section = make_section(MANY)
    plan_section(section.image, section.annotation, plan_settings(section="B07"), tmp_path / "plan")
    words = {"image": section.image, "plan": tmp_path / "plan", "shard": 0, "model": tiny_model(), "device": "cpu"}
    slow = as_json(mend_settings(sampler="repaint", steps=256, resample=10))
    line = command("mend-shard", **words, settings=slow, threads=1, out=tmp_path / "0.zarr")
    log = tmp_path / "log"
    with log.open("w") as file:
        job = subprocess.Popen([sys.executable, "-m", "cytomend", *line], stdout=file, stderr=file)
    wait_for(lambda: ": begun" in log.read_text(), job)
    os.kill(int(Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text()), number)
    assert job.wait(60) == 128 + number
    last = log.read_text().splitlines()[-5:]
    assert any("section B07, region" in text for text in last), last
    assert cause in last[-1], last
