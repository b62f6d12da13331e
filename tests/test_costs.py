"""What mending took: GPU hours where a GPU mended, processor hours elsewhere, and nothing from what is half written."""

import json

import pytest

from cytomend.costs import Hours, hours_of, section_hours

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
ROW = "7200.00\t2:00:00\t1\t1\t1\t1\t1\t1\t90\t1800.00\n"


@pytest.mark.parametrize(
    ("text", "gpus", "hours"),
    [
        pytest.param(HEAD + ROW, 1, Hours(gpu=2), id="one GPU"),
        pytest.param(HEAD + ROW, 4, Hours(gpu=8), id="four GPUs, each for as long"),
        pytest.param(HEAD + ROW, 0, Hours(cpu=0.5), id="no GPU: processor time"),
        pytest.param(HEAD + ROW + ROW, 1, Hours(gpu=4), id="a repeated job"),
        pytest.param(HEAD + ROW.replace("1800.00", "NA"), 0, Hours(cpu=2), id="unknown processor time: the duration"),
        pytest.param(HEAD + "NA\tNA\n", 1, Hours(), id="nothing measured"),
        pytest.param(HEAD + "72", 1, Hours(gpu=0.02), id="cut off in a number"),
        pytest.param(HEAD, 1, Hours(), id="cut off behind the header"),
        pytest.param("", 1, Hours(), id="empty"),
        pytest.param("s\tcpu_ti", 0, Hours(), id="cut off in the header"),
        pytest.param(HEAD + "nan\t-\n", 1, Hours(), id="not a number"),
    ],
)
def test_hours_are_read_from_a_benchmark(tmp_path, text, gpus, hours):
    (tmp_path / "b.tsv").write_text(text)
    assert hours_of(tmp_path / "b.tsv", gpus) == hours


def test_a_missing_benchmark_took_nothing(tmp_path):
    assert hours_of(tmp_path / "none.tsv", 1) == Hours()


def test_a_sections_hours_are_those_of_its_finished_shards_and_trials(tmp_path):
    for name in ("mended/0", "mended/1", "trials"):
        gpus = {"mended/0": {"gpus": 2}, "mended/1": {}, "trials": {"gpus": 1}}[name]
        place = tmp_path / "results" / "s" / f"{name}.manifest.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(gpus))
    for name in ("mend_shard/s.0", "mend_shard/s.1", "mend_shard/s.2", "mend_trials/s"):
        place = tmp_path / "benchmarks" / f"{name}.tsv"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(HEAD + ROW)
    # Shard 0 on two GPUs, shard 1 of a manifest that does not say, shard 2 without a result, the trials on one GPU.
    assert section_hours("s", 3, tmp_path / "results", tmp_path / "benchmarks") == Hours(gpu=4 + 2, cpu=0.5)
    assert section_hours("s", 1, tmp_path / "results", tmp_path / "benchmarks") == Hours(gpu=4 + 2)
