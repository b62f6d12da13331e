"""The workflow on a real Slurm, through `profiles/slurm`: the same pixels as on one machine, whatever breaks meanwhile.

`make test-slurm` runs it. The cluster is one host with emulated GPU nodes, started here; skipped where it cannot be
had. For a fault, the mending of a section is held in its second region, with the first one kept, so that a job is
surely at work when something happens to it.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_workflow import Lab, edit, finished, is_mending, tiny_checkpoint, wait_for  # noqa: F401 - fixtures

CHECKOUT = Path(__file__).parents[1]
TOOLS = CHECKOUT.parent / "shared" / "slurm"

pytestmark = pytest.mark.skipif(
    "CYTOMEND_SLURM" not in os.environ or not (TOOLS / "start-slurm").exists() or os.geteuid() != 0,
    reason="asks for `make test-slurm`, the administrator, and ../shared/slurm",
)


@dataclass(frozen=True)
class Cluster:
    """A running cluster with two CPU nodes and a GPU node."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def jobs(self) -> list[str]:
        return self.ask("squeue", "--noheader", "--format=%A").split()

    def kill(self, daemon: str) -> None:
        os.kill(int((self.folder / "pids" / daemon).read_text().split()[0]), signal.SIGKILL)

    def crash(self, node: str) -> None:
        """End a node's daemon and all that its jobs have running, which tell the controller nothing."""
        self.kill(f"slurmd-{node}")
        conf = f"SLURM_CONF={self.environment['SLURM_CONF']}"
        here = [process for process in Path("/proc").glob("[0-9]*") if conf in variables(process)]
        of_jobs = [process for process in here if f"SLURMD_NODENAME={node}" in variables(process)]
        steps = [process for process in here if "slurmstepd" in program(process)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in steps + of_jobs:
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), number)

    def restart(self, daemon: str, *command: str) -> None:
        """Start a daemon as its administrator would, so that `stop-slurm` ends it too."""
        log = self.folder / "log" / f"{daemon}.out"
        words = ["bash", "-c", 'setsid nohup "$@" </dev/null >>"$0" 2>&1 & echo $!', str(log), *command]
        pid = self.ask(*words)
        began = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        (self.folder / "pids" / daemon).write_text(f"{pid} {began}\n")


def variables(process: Path) -> list[str]:
    """Return the environment of a process of /proc."""
    try:
        return (process / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def program(process: Path) -> str:
    try:
        return str((process / "exe").readlink())
    except OSError:
        return ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    options = ["--cpus", "8", "--mem", "64000", "--cpu-nodes", "2", "--gpu-nodes", "2", str(folder)]
    started = subprocess.run([str(TOOLS / "start-slurm"), *options], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"no Slurm: {started.stderr[-300:]}")
    told = subprocess.run(
        ["bash", "-c", f". {folder}/env.sh && env -0"], capture_output=True, text=True, check=True
    ).stdout
    yield Cluster(folder, dict(line.split("=", 1) for line in told.split("\0") if "=" in line))
    subprocess.run([str(TOOLS / "stop-slurm"), "--purge", str(folder)], capture_output=True)


@pytest.fixture
def on_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[Lab], Lab]:
    """A function that lets the commands of a lab see the cluster, and Snakemake look at its jobs every two seconds."""
    for name in ("PATH", *(key for key in cluster.environment if key.startswith("SLURM"))):
        monkeypatch.setenv(name, cluster.environment[name])

    def move(lab: Lab) -> Lab:
        shutil.rmtree(lab.folder / "profiles" / "default", ignore_errors=True)
        set_profile(lab, **{"slurm-init-seconds-before-status-checks": 5, "latency-wait": 10})
        place = lab.folder / "Snakefile"
        place.write_text(
            "from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor\n"
            "RemoteExecutor.next_seconds_between_status_checks = property(lambda _: 2, lambda *_: None)\n"
            + place.read_text()
        )
        return lab

    return move


def set_profile(lab: Lab, **entries: object) -> None:
    place = lab.folder / "profiles" / "slurm" / "config.yaml"
    place.write_text(yaml.safe_dump({**yaml.safe_load(place.read_text()), **entries}))


def test_slurm_jobs_give_the_pixels_of_a_run_on_one_machine(
    on_cluster: Callable[[Lab], Lab],
    finished: Lab,  # noqa: F811
    tiny_checkpoint: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    lab = on_cluster(Lab(folder, tiny_checkpoint))
    output = lab.snakemake("--profile", "profiles/slurm")
    assert "SLURM run ID" in output
    for section in ("left", "right"):
        np.testing.assert_array_equal(lab.corrected(section), finished.corrected(section))
    assert lab.would_run() == set()


CORRECTED = "results/left/corrected.manifest.json"


class HeldLab:
    """A lab on the cluster whose left section is planned and has to be mended, region by region.

    Its jobs wait at the second region, with the first one kept, until `let_go`.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab, self.folder = lab, lab.folder
        self.runs: list[subprocess.Popen[str]] = []
        edit("stages/mend_shard.py", '{"cpu": 1 << 20}', '{"cpu": 1}')(lab)
        edit(
            "stages/group_mender.py",
            "        with self._blaming(group.turns):\n            mended",
            '        while group.turns[0].region == 2 and Path("hold").exists():\n'
            '            held = b"x" * int(Path("hold").read_text() or 0)\n            time.sleep(0.1)\n'
            "        with self._blaming(group.turns):\n            mended",
        )(lab)
        for path in (self.folder / "results" / "left" / "mended", *self.folder.glob("results/left/corrected*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.hold(memory_mb=0)

    @property
    def log(self) -> str:
        place = self.folder / "logs" / "mend_shard" / "left.0.log"
        return place.read_text() if place.exists() else ""

    def start(self, *options: str) -> subprocess.Popen[str]:
        self.runs.append(self.lab.start("--profile", "profiles/slurm", *options, CORRECTED))
        return self.runs[-1]

    def ask_for(self, **resources: str) -> None:
        """Set what mending asks of the cluster."""
        set_profile(self.lab, **{"set-resources": {"mend_shard": {"slurm_partition": "'gpu'", **resources}}})

    def caught_in_the_act(self) -> subprocess.Popen[str]:
        """Start a run, wait until a job has kept the first region and is at the second, and return it."""
        run = self.start()
        kept = self.folder / "results" / "left" / "mended" / ".0.zarr.work" / "regions" / "1.npz"
        wait_for(lambda: kept.exists() and "region 2: begun" in self.log, run)
        return run

    def hold(self, memory_mb: int) -> None:
        """Let its jobs wait at the second region, and take some memory meanwhile."""
        (self.folder / "hold").write_text(str(memory_mb * 1_000_000))

    def let_go(self) -> None:
        (self.folder / "hold").unlink()

    def mending(self) -> list[int]:
        """Return the processes of the job, from the shell of the rule to the process that computes."""
        return sorted(int(p.name) for p in Path("/proc").glob("[0-9]*") if is_mending(p, self.folder))

    def assert_nothing_looks_finished(self) -> None:
        assert not list(self.folder.glob("results/left/mended/*.json"))
        assert not list(self.folder.glob("results/left/corrected*"))

    def assert_ended_as(self, undisturbed: Lab) -> None:
        np.testing.assert_array_equal(self.lab.corrected("left"), undisturbed.corrected("left"))
        assert not list(self.folder.glob("results/left/**/.*.work"))


@pytest.fixture
def held(on_cluster: Callable[[Lab], Lab], cluster: Cluster, finished: Lab, tmp_path: Path) -> Iterator[HeldLab]:  # noqa: F811
    held = HeldLab(on_cluster(finished.copy(tmp_path / "lab")))
    yield held
    for run in held.runs:  # of a test that failed
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    for job in cluster.jobs():
        cluster.ask("scancel", job)


def ended(run: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for a run and return what it said."""
    output = run.communicate()[0]
    assert run.returncode == status, output
    return output


def ran(output: str, rule: str) -> int:
    """Return how many jobs of a rule were submitted."""
    return len(re.findall(rf"has been submitted with SLURM jobid \d+ \(log: .*/rule_{rule}/", output))


def test_a_job_that_is_killed_says_what_it_was_doing_and_is_done_again(held: HeldLab, finished: Lab) -> None:  # noqa: F811
    run = held.caught_in_the_act()
    os.kill(held.mending()[-1], signal.SIGKILL)
    wait_for(lambda: "killed by SIGKILL" in held.log, run)
    assert "section left, region 2: begun" in held.log.splitlines()[-2]
    held.assert_nothing_looks_finished()
    held.let_go()
    output = ended(run)
    assert "killed by SIGKILL" in output  # shown with the failed job, since the next attempt begins its log anew
    assert "1 of 2 regions to mend" in held.log
    assert (ran(output, "plan_section"), ran(output, "mend_shard")) == (0, 2)
    held.assert_ended_as(finished)


def test_a_cancelled_job_says_so_and_is_done_again(held: HeldLab, cluster: Cluster, finished: Lab) -> None:  # noqa: F811
    run = held.caught_in_the_act()
    cluster.ask("scancel", *cluster.jobs())
    wait_for(lambda: "stopped by SIGTERM" in held.log, run)
    assert "section left, region 2: begun" in held.log
    held.assert_nothing_looks_finished()
    held.let_go()
    output = ended(run)
    assert "SLURM status is: 'CANCELLED'" in output
    assert "1 of 2 regions to mend" in held.log
    held.assert_ended_as(finished)


def test_jobs_outlive_snakemake_and_what_they_finish_counts(held: HeldLab, cluster: Cluster, finished: Lab) -> None:  # noqa: F811
    shutil.rmtree(held.folder / ".snakemake" / "metadata")  # as in a folder where no section was mended before
    run = held.caught_in_the_act()
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert len(cluster.jobs()) == 1
    second = held.start()
    assert "cannot be locked" in ended(second, status=1)
    held.let_go()
    until(lambda: not cluster.jobs())
    held.lab.snakemake("--unlock")
    output = ended(held.start())
    assert (ran(output, "mend_shard"), ran(output, "blend_section")) == (0, 1)
    held.assert_ended_as(finished)


def until(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def test_a_run_outlives_the_controller(held: HeldLab, cluster: Cluster, finished: Lab) -> None:  # noqa: F811
    run = held.caught_in_the_act()
    cluster.kill("slurmctld")
    held.let_go()
    until(lambda: not held.mending())
    time.sleep(5)  # Snakemake asks in vain meanwhile
    cluster.restart("slurmctld", "slurmctld", "-D", "-i")
    output = ended(run)
    assert (ran(output, "mend_shard"), ran(output, "blend_section")) == (1, 1)
    held.assert_ended_as(finished)


def test_a_run_outlives_the_daemon_of_a_node(held: HeldLab, cluster: Cluster, finished: Lab) -> None:  # noqa: F811
    run = held.caught_in_the_act()
    cluster.kill("slurmd-gpu1")
    held.let_go()
    until(lambda: not held.mending())
    cluster.restart("slurmd-gpu1", "slurmd", "-D", "-N", "gpu1")
    output = ended(run)
    assert ran(output, "blend_section") == 1
    held.assert_ended_as(finished)


def test_a_job_whose_node_crashed_is_done_again(held: HeldLab, cluster: Cluster, finished: Lab) -> None:  # noqa: F811
    run = held.caught_in_the_act()
    [job] = cluster.jobs()
    cluster.crash("gpu1")
    until(lambda: not held.mending())
    # What Slurm does by itself after SlurmdTimeout.
    cluster.ask("scontrol", "update", "NodeName=gpu1", "State=DOWN", "Reason=crashed")
    held.assert_nothing_looks_finished()
    held.let_go()
    cluster.restart("slurmd-gpu1", "slurmd", "-D", "-N", "gpu1")
    # Where jobs may be queued again, Slurm does so after two minutes; otherwise Snakemake submits another.
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, capture_output=True)
    ended(run)
    assert "1 of 2 regions to mend" in held.log
    held.assert_ended_as(finished)


def test_a_job_whose_time_is_over_says_so_and_goes_on_with_more(held: HeldLab, finished: Lab) -> None:  # noqa: F811
    held.ask_for(runtime="1 if attempt == 1 else 30")
    run = held.caught_in_the_act()
    wait_for(lambda: "stopped by SIGTERM" in held.log, run, seconds=240)
    assert "section left, region 2: begun" in held.log
    held.assert_nothing_looks_finished()
    held.let_go()
    output = ended(run)
    assert "SLURM status is: 'TIMEOUT'" in output
    assert "1 of 2 regions to mend" in held.log
    held.assert_ended_as(finished)


def test_a_job_that_takes_too_much_memory_is_done_again_with_more(held: HeldLab, finished: Lab) -> None:  # noqa: F811
    held.ask_for(mem_mb="1500 if attempt == 1 else 4000")
    run = held.caught_in_the_act()
    held.hold(memory_mb=2000)
    wait_for(lambda: not held.mending(), run)
    held.assert_nothing_looks_finished()
    held.let_go()
    output = ended(run)
    assert "section left, region 2: begun" in output  # the last that was heard of the killed job
    assert "exceeded memory limit" in output
    assert ran(output, "mend_shard") == 2
    assert "1 of 2 regions to mend" in held.log
    held.assert_ended_as(finished)


def test_a_second_run_in_the_same_folder_is_refused_and_if_forced_mixes_nothing(held: HeldLab, finished: Lab) -> None:  # noqa: F811
    first = held.caught_in_the_act()
    assert "cannot be locked" in ended(held.start(), status=1)
    output = ended(held.start("--nolock"), status=1)
    assert "results/left/mended/0.zarr: another process is writing it; wait for it to end, or stop it" in output
    held.let_go()
    assert ran(ended(first), "mend_shard") == 1
    held.assert_ended_as(finished)
