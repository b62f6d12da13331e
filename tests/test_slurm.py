"""The workflow on a real Slurm, through `profiles/slurm`: the same pixels as on one machine. `make test-slurm` runs it.

The cluster is one host with emulated GPU nodes, started here; skipped where it cannot be had.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_workflow import Lab, finished, tiny_checkpoint  # noqa: F401 - fixtures

CHECKOUT = Path(__file__).parents[1]
TOOLS = CHECKOUT.parent / "shared" / "slurm"

pytestmark = pytest.mark.skipif(
    "CYTOMEND_SLURM" not in os.environ or not (TOOLS / "start-slurm").exists() or os.geteuid() != 0,
    reason="asks for `make test-slurm`, the administrator, and ../shared/slurm",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    """Environment of a running cluster with two CPU nodes and a GPU node."""
    folder = tmp_path_factory.mktemp("slurm")
    options = ["--cpus", "8", "--mem", "64000", "--cpu-nodes", "2", str(folder)]
    started = subprocess.run([str(TOOLS / "start-slurm"), *options], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"no Slurm: {started.stderr[-300:]}")
    told = subprocess.run(
        ["bash", "-c", f". {folder}/env.sh && env -0"], capture_output=True, text=True, check=True
    ).stdout
    yield dict(line.split("=", 1) for line in told.split("\0") if "=" in line)
    subprocess.run([str(TOOLS / "stop-slurm"), "--purge", str(folder)], capture_output=True)


@pytest.fixture
def cluster_lab(tmp_path: Path, tiny_checkpoint: Path, cluster, monkeypatch) -> Lab:  # noqa: F811
    """A lab that has not run yet, whose commands see the cluster; its profile only looks sooner."""
    for name in ("PATH", *(key for key in cluster if key.startswith("SLURM"))):
        monkeypatch.setenv(name, cluster[name])
    folder = tmp_path / "lab"
    folder.mkdir()
    lab = Lab(folder, tiny_checkpoint)
    place = folder / "profiles" / "slurm" / "config.yaml"
    profile = yaml.safe_load(place.read_text())
    place.write_text(yaml.safe_dump({**profile, "slurm-init-seconds-before-status-checks": 5, "latency-wait": 10}))
    shutil.rmtree(folder / "profiles" / "default")
    return lab


def test_slurm_jobs_give_the_pixels_of_a_run_on_one_machine(cluster_lab: Lab, finished: Lab) -> None:  # noqa: F811
    output = cluster_lab.snakemake("--profile", "profiles/slurm")
    assert "executor: slurm" in output.lower() or "slurm" in output.lower()
    for section in ("left", "right"):
        np.testing.assert_array_equal(cluster_lab.corrected(section), finished.corrected(section))
    assert cluster_lab.would_run() == set()
