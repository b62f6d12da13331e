"""Requests to a cluster, against stand-ins for Slurm's commands; tests/test_slurm.py asks a real one."""

import pytest

from cytomend.cluster import JobRequest, largest, refused

GPU_NODE = {"slurm_partition": "gpu", "slurm_account": "lab", "gpu": 1, "mem_mb": 8000, "runtime": 60, "tmpdir": "/tmp"}

SBATCH = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in *--mem=900000*) echo "allocation failure: Requested node configuration is not available" >&2; exit 1;; esac
echo "sbatch: Job 1 to start" >&2
"""
SINFO = """#!/bin/sh
case "$*" in *%T*--partition=broken*) echo "down*"; echo idle;; *%T*) echo idle; echo mixed;;
*) printf 'cpu*|2:00:00\\ngpu|1-00:00:00\\nlong|infinite\\n';; esac
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands that answer as Slurm 22.05 does; returns the file of what `sbatch` was asked."""
    for name, text in (("sbatch", SBATCH.format(calls=tmp_path / "calls")), ("sinfo", SINFO)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "calls"


def request(**changes):
    return JobRequest.of("mend_shard", 8, {**GPU_NODE, **changes})


def test_a_request_that_can_be_satisfied_is_not_refused(slurm):
    assert refused([request()]) == []
    words = "--test-only --partition=gpu --account=lab --gpus=1 --cpus-per-task=8 --mem=8000 --time=60 --wrap=true"
    assert slurm.read_text().strip() == words


@pytest.mark.usefixtures("slurm")
def test_what_no_node_has_is_named():
    (refusal,) = refused([request(mem_mb=900_000), request()])
    sentence = refusal.sentence
    assert not refusal.for_now
    assert "mend_shard asks for" in sentence
    assert "--mem=900000" in sentence
    assert "Requested node configuration is not available" in sentence


@pytest.mark.parametrize(
    ("partition", "minutes", "limit"),
    [("gpu", 1441, 1440), ("gpu", 1440, None), ("long", 99999, None), ("cpu", 121, 120), (None, 121, 120)],
)
@pytest.mark.usefixtures("slurm")
def test_more_time_than_a_partition_gives_is_named(partition, minutes, limit):
    refusals = refused([request(slurm_partition=partition, runtime=minutes)])
    assert len(refusals) == (limit is not None)
    assert all(f"ends jobs after {limit} minutes" in refusal.sentence for refusal in refusals)


@pytest.mark.usefixtures("slurm")
def test_what_a_node_that_is_down_may_take_is_refused_for_now_only():
    (refusal,) = refused([request(slurm_partition="broken", mem_mb=900_000)])
    assert refusal.for_now


def test_the_model_of_a_gpu_is_asked_for():
    assert "--gpus=a100:2" in request(gpu=2, gpu_model="a100").words


def test_only_the_largest_request_of_each_kind_is_asked():
    other = JobRequest.of("blend_section", 2, {"slurm_partition": "cpu", "mem_mb": 2000, "runtime": 30})
    asked = largest([request(), request(mem_mb=9000), request(runtime=90), request(gpu=2), other])
    assert [(r.rule, r.mem_mb, r.minutes) for r in asked] == [
        ("mend_shard", 9000, 90),
        ("mend_shard", 8000, 60),
        ("blend_section", 2000, 30),
    ]


def test_without_slurm_nothing_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused([request(mem_mb=900_000)]) == []


def test_a_controller_that_does_not_answer_refuses_nothing(slurm, monkeypatch):
    monkeypatch.setattr("cytomend.cluster.SECONDS", 0.2)
    for name in ("sbatch", "sinfo"):
        (slurm.parent / name).write_text("#!/bin/sh\nexec sleep 5\n")
    assert refused([request(mem_mb=900_000)]) == []
