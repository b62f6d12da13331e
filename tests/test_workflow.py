"""The workflow as a lab runs it: a checkout whose path has a space, small sections, a tiny random network."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml
import zarr

from cytomend.diffusion.checkpoint import save_model
from cytomend.diffusion.record import ModelSettings, UNetSettings
from cytomend.diffusion.schedule import TIMES
from cytomend.diffusion.unet import UNet
from cytomend.phantom import render_tissue

CHECKOUT = Path(__file__).parents[1]
FOLLOWING = {
    "plan_section": {
        "plan_section",
        "mend_shard",
        "blend_section",
        "verify_section",
        "mend_trials",
        "evaluate_section",
        "report_section",
    },
    "mend_shard": {
        "mend_shard",
        "blend_section",
        "verify_section",
        "mend_trials",
        "evaluate_section",
        "report_section",
    },
    "blend_section": {"blend_section", "verify_section", "report_section"},
    "verify_section": {"verify_section", "report_section"},
    "mend_trials": {"mend_trials", "evaluate_section", "report_section"},
    "evaluate_section": {"evaluate_section", "report_section"},
    "report_section": {"report_section"},
}
"""What has to be redone from a stage on."""


class Lab:
    """A checkout with a sheet of sections, and what can be done to it."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder = folder
        for part in ("Snakefile", "workflow", "envs", "profiles"):
            source = CHECKOUT / part
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
        (folder / "data").mkdir()
        shutil.copy(checkpoint, folder / "data" / "model.safetensors")
        self.rows: list[dict[str, str]] = []
        for i, name in enumerate(("left", "right")):
            self.add_section(name, seed=i)
        self.config = {
            "mend": {"model": "data/model.safetensors", "steps": 3},
            "pyramid": {"chunk_px": 64, "shard_px": 128},
            "report": {"overview_px": 128, "segmenter": "classical"},
            "evaluate": {
                "trials": 2,
                "windows": 1,
                "segmenters": ["classical"],
                "classifier": None,
                "fillers": ["local mean"],
            },
        }
        self.write()

    def add_section(self, name: str, seed: int) -> None:
        image = render_tissue((150, 420), seed).image
        mask = np.zeros_like(image)
        mask[40:70, 30:90] = 255
        mask[100:110, 100:130] = 255
        tifffile.imwrite(self.folder / "data" / f"{name}.tif", image, tile=(64, 64))
        tifffile.imwrite(self.folder / "data" / f"{name}-mask.tif", mask)
        row = {"section": name, "image": f"data/{name}.tif", "annotation": f"data/{name}-mask.tif"}
        self.rows.append({**row, "pixel_size_um": "1.0", "stain": "", "seed": "", "steps": ""})

    def write(self) -> None:
        (self.folder / "config").mkdir(exist_ok=True)
        (self.folder / "config" / "config.yaml").write_text(yaml.safe_dump(self.config))
        with (self.folder / "config" / "sections.tsv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(self.rows[0]), delimiter="\t")
            table.writeheader()
            table.writerows(self.rows)

    def start(self, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            **(environment or {}),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": "",
        }
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=environment, start_new_session=True, **pipes)

    def snakemake(self, *options: str, environment: dict[str, str] | None = None) -> str:
        process = self.start(*options, environment=environment)
        output = process.communicate()[0]
        if process.returncode:
            logs = "\n".join(f"{p}:\n{p.read_text()[-3000:]}" for p in self.folder.glob("logs/**/*.log"))
            raise AssertionError(f"snakemake {options}: {output}\n{logs}")
        return output

    def would_run(self) -> set[str]:
        """Return the jobs of a dry run as 'rule' or 'rule section'."""
        output = self.snakemake("--dry-run")
        jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", output, flags=re.MULTILINE)
        named = set()
        for rule, text in jobs:
            section = re.search(r"wildcards: .*?section=([\w-]+)", text)
            named.add(f"{rule} {section[1]}" if section else rule)
        return named - {"all"}

    def corrected(self, section: str) -> np.ndarray:
        return np.asarray(zarr.open_array(self.folder / "results" / section / "corrected.ome.zarr" / "0", mode="r"))

    def copy(self, folder: Path) -> "Lab":
        shutil.copytree(self.folder, folder)
        twin = object.__new__(Lab)
        twin.folder, twin.rows, twin.config = (
            folder,
            [dict(row) for row in self.rows],
            json.loads(json.dumps(self.config)),
        )
        return twin


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network whose weights are all random, so that what it draws depends on everything."""
    torch.manual_seed(0)
    network = UNet(UNetSettings(widths=(8, 16), attention=(1,), heads=2))
    weights = {name: torch.randn_like(p) * 0.1 for name, p in network.named_parameters()}
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, weights, ModelSettings(network.settings, TIMES, window_px=32, pixel_size_um=1.0))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Lab:
    """A lab whose workflow has run to its end."""
    folder = tmp_path_factory.mktemp("lab") / "a lab"
    folder.mkdir()
    lab = Lab(folder, tiny_checkpoint)
    lab.snakemake()
    # An image younger than two seconds could change again within a tick of the clock, so its hash is not kept.
    time.sleep(2.1)
    return lab


@pytest.fixture
def lab(finished: Lab, tmp_path: Path) -> Lab:
    """A finished lab of one's own."""
    return finished.copy(tmp_path / "another lab")


def jobs(section: str, first: str) -> set[str]:
    """Return the jobs of a section from a stage on, and the summary that follows."""
    return {f"{stage} {section}" for stage in FOLLOWING[first]} | {"summarise_brain"}


def test_more_samples_redo_every_section_from_its_plan(lab: Lab) -> None:
    lab.config["mend"]["samples"] = 2
    lab.write()
    assert lab.would_run() == jobs("left", "plan_section") | jobs("right", "plan_section")


def test_a_finished_workflow_has_nothing_to_do(finished: Lab) -> None:
    assert finished.would_run() == set()


def test_every_result_is_there_and_untouched_pixels_are_untouched(finished: Lab) -> None:
    for section in ("left", "right"):
        folder = finished.folder / "results" / section
        source = tifffile.imread(finished.folder / "data" / f"{section}.tif")
        mended = np.asarray(zarr.open_array(folder / "corrected.ome.zarr" / "labels" / "mended" / "0", mode="r")) > 0
        corrected = finished.corrected(section)
        assert mended.any()
        np.testing.assert_array_equal(corrected[~mended], source[~mended])
        assert (corrected[mended] != source[mended]).mean() > 0.5
        assert (folder / "report" / "index.html").stat().st_size > 1000
        trials = pd.read_parquet(folder / "evaluation" / "trials.parquet")
        assert len(trials) == 2
    summary = pd.read_csv(finished.folder / "results" / "brain" / "evaluation" / "summary.tsv", sep="\t")
    assert summary["trials"].max() == 4
    assert (finished.folder / "results" / "brain" / "report" / "index.html").exists()
    table = (finished.folder / "results" / "brain" / "metrics.tsv").read_text().splitlines()
    assert len(table) == 3


def change_pixels(lab: Lab) -> None:
    image = tifffile.imread(lab.folder / "data" / "left.tif")
    image[0, 0] ^= 1
    tifffile.imwrite(lab.folder / "data" / "left.tif", image, tile=(64, 64))


def change_mask(lab: Lab) -> None:
    mask = tifffile.imread(lab.folder / "data" / "left-mask.tif")
    mask[10:14, 10:14] = 255
    tifffile.imwrite(lab.folder / "data" / "left-mask.tif", mask)


def touch_everything(lab: Lab) -> None:
    for path in [
        *(lab.folder / "data").iterdir(),
        *(lab.folder / "config").iterdir(),
        *lab.folder.glob("workflow/**/*.*"),
    ]:
        path.touch()


def change_row(lab: Lab) -> None:
    lab.rows[0]["seed"] = "7"
    lab.write()


def change_stain(lab: Lab) -> None:
    lab.rows[0]["stain"] = "Nissl"
    lab.write()


def add_row(lab: Lab) -> None:
    lab.add_section("third", seed=5)
    lab.write()


def remove_row(lab: Lab) -> None:
    del lab.rows[1]
    lab.write()


def cell(column: str, value: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        for row in lab.rows:
            row.setdefault(column, "")
        lab.rows[0][column] = value
        lab.write()

    return change


def touch_results(lab: Lab) -> None:
    for path in lab.folder.glob("results/**/*"):
        path.touch()


def rewrite_with_other_times(lab: Lab) -> None:
    """As a restored backup or another checkout does."""
    for i, path in enumerate(sorted((lab.folder / "data").iterdir())):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (1_600_000_000 + i, 1_600_000_000 + i))


def move_model(lab: Lab) -> None:
    (lab.folder / "data" / "model.safetensors").rename(lab.folder / "data" / "same.safetensors")
    lab.config["mend"]["model"] = "data/same.safetensors"
    lab.write()


def reorder_rows(lab: Lab) -> None:
    lab.rows.reverse()
    lab.write()


def change_model(lab: Lab) -> None:
    data = bytearray((lab.folder / "data" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (lab.folder / "data" / "model.safetensors").write_bytes(data)


def setting(block: str, key: str, value: object) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        lab.config.setdefault(block, {})[key] = value
        lab.write()

    return change


def edit(module: str, old: str, new: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        path = lab.folder / "workflow" / "lib" / "cytomend" / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def delete(place: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        path = lab.folder / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def decide(section: str, *rows: dict[str, str], name: str = "decisions.tsv") -> Callable[[Lab], None]:
    """Return a change that puts decisions about the first region of a section into a table, and names it."""

    def change(lab: Lab) -> None:
        first = pd.read_parquet(lab.folder / "results" / section / "plan" / "regions.parquet").iloc[0]
        sides = {side: str(first[side]) for side in ("region", "y0_px", "x0_px", "y1_px", "x1_px", "area_px")}
        usual = {"section": section, **sides, "decision": "leave", "comment": "", "who": "Anna", "when": "2026-07-01"}
        path = lab.folder / "config" / name
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(usual), delimiter="\t")
            table.writeheader()
            table.writerows({**usual, **row} for row in rows or [{}])
        lab.config["decisions"] = "config/" + name.split("/")[0]
        lab.write()

    return change


def no_table(lab: Lab) -> None:
    lab.config["decisions"] = None
    lab.write()


BOTH = {stage: jobs("left", stage) | jobs("right", stage) for stage in FOLLOWING}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(touch_everything, set(), id="touching every input, setting and source redoes nothing"),
        pytest.param(rewrite_with_other_times, set(), id="restored files with other times redo nothing"),
        pytest.param(touch_results, set(), id="touched results redo nothing"),
        pytest.param(remove_row, {"summarise_brain"}, id="a removed row only leaves the tables"),
        pytest.param(cell("sampler", "langevin"), jobs("left", "mend_shard"), id="a row's sampler"),
        pytest.param(cell("grow_px", "5"), jobs("left", "plan_section"), id="a row's margin"),
        pytest.param(
            cell("annotation", "data/left-mask.tif;data/right-mask.tif"),
            jobs("left", "plan_section"),
            id="a second annotation",
        ),
        pytest.param(
            setting("mask", "exclude_classes", ["Ignore*"]), BOTH["plan_section"], id="classes that are no damage"
        ),
        pytest.param(
            cell("annotation", "auto"),
            {"screen_section left"} | jobs("left", "plan_section"),
            id="a row without an annotation",
        ),
        pytest.param(
            setting("export", "tiff", "classic"),
            {"export_section left", "export_section right"},
            id="TIFFs are made besides",
        ),
        pytest.param(setting("screen", "min_score", 0.9), set(), id="what nobody asked for redoes nothing"),
        pytest.param(cell("shards", "2"), jobs("left", "plan_section"), id="a row's shards"),
        pytest.param(cell("trials", "3"), jobs("left", "mend_trials"), id="a row's trials"),
        pytest.param(setting("mend", "sampler", "langevin"), BOTH["mend_shard"], id="another sampler"),
        pytest.param(setting("mend", "batch_windows", 4), BOTH["mend_shard"], id="another shape of calls"),
        pytest.param(setting("brain", "currency", "CHF"), {"summarise_brain"}, id="the price of a GPU hour"),
        pytest.param(move_model, BOTH["mend_shard"], id="a model of another name, which stands in the metadata"),
        pytest.param(delete("results/brain/metrics.tsv"), {"summarise_brain"}, id="a deleted table"),
        pytest.param(delete("results/left/mended/0.zarr"), set(), id="a deleted store that nothing waits for"),
        pytest.param(
            edit("report/overview.py", "import numpy as np", "import math\nimport numpy as np"),
            BOTH["report_section"],
            id="new behaviour of a page",
        ),
        pytest.param(change_pixels, jobs("left", "plan_section"), id="new pixels redo their section"),
        pytest.param(change_mask, jobs("left", "plan_section"), id="a new mask redoes its section"),
        pytest.param(change_row, jobs("left", "mend_shard"), id="a row's seed redoes that section's mending"),
        pytest.param(change_stain, jobs("left", "plan_section"), id="a row's stain redoes that section"),
        pytest.param(add_row, jobs("third", "plan_section"), id="a new row runs that section alone"),
        pytest.param(reorder_rows, set(), id="reordered rows redo nothing"),
        pytest.param(change_model, BOTH["mend_shard"], id="a new model of the same name redoes mending"),
        pytest.param(setting("mend", "steps", 4), BOTH["mend_shard"], id="more steps redo mending"),
        pytest.param(setting("mask", "grow_px", 5), BOTH["plan_section"], id="a wider margin redoes plans"),
        pytest.param(setting("pyramid", "chunk_px", 128), BOTH["blend_section"], id="other chunks redo blending"),
        pytest.param(setting("report", "context_px", 20), BOTH["report_section"], id="report settings redo pages"),
        pytest.param(setting("evaluate", "seed", 3), BOTH["mend_trials"], id="other trials are mended and evaluated"),
        pytest.param(setting("evaluate", "patch_trials", 1), BOTH["mend_trials"], id="large patches are mended too"),
        pytest.param(
            setting("evaluate", "fillers", []), BOTH["evaluate_section"], id="other controls need no new mending"
        ),
        pytest.param(
            edit("evaluation/position.py", "REACH_UM = 4.0", "REACH_UM = 5.0"),
            BOTH["evaluate_section"],
            id="new behaviour of a statistic redoes the evaluations",
        ),
        pytest.param(
            delete("results/left/evaluation"), jobs("left", "evaluate_section"), id="a deleted evaluation is made again"
        ),
        pytest.param(
            delete("results/left/evaluation.manifest.json"),
            jobs("left", "evaluate_section"),
            id="an evaluation that was set aside is made again",
        ),
        pytest.param(
            delete("results/left/mended/0.manifest.json"), set(), id="a shard that was set aside is not missed"
        ),
        pytest.param(delete("results/left/plan.manifest.json"), set(), id="a plan that was set aside is not missed"),
        pytest.param(
            delete("results/left/corrected.manifest.json"),
            jobs("left", "blend_section"),
            id="a pyramid that was set aside is made again",
        ),
        pytest.param(
            setting("brain", "gpu_hour_cost", 2.5), {"summarise_brain"}, id="a price redoes the page of all sections"
        ),
        pytest.param(
            edit("diffusion/samplers.py", "    level = [", "    # why not\n    level = ["),
            set(),
            id="a comment redoes nothing",
        ),
        pytest.param(
            edit("diffusion/samplers.py", "x = noise(0)", "x = noise(0) * 1"),
            BOTH["mend_shard"],
            id="new behaviour of the sampler redoes mending",
        ),
        pytest.param(
            edit("storage/pyramid.py", "sums += 2", "sums += 1 + 1"),
            BOTH["blend_section"],
            id="new behaviour of blending redoes it",
        ),
        pytest.param(
            edit("storage/proof.py", "FIRST = 5", "FIRST = 6"),
            BOTH["verify_section"],
            id="new behaviour of proving redoes it",
        ),
        pytest.param(delete("results/left/verdict.json"), jobs("left", "verify_section"), id="a deleted verdict"),
        pytest.param(
            delete("results/left/corrected.ome.zarr"),
            jobs("left", "blend_section"),
            id="a deleted pyramid is made again",
        ),
        pytest.param(
            delete("results/right/report/index.html"), {"report_section right", "summarise_brain"}, id="a deleted page"
        ),
        pytest.param(no_table, set(), id="no table of decisions"),
        pytest.param(decide("left"), jobs("left", "plan_section"), id="a region that is left redoes its section alone"),
        pytest.param(
            decide("left", {"decision": "redraw"}, name="decisions/anna.tsv"),
            jobs("left", "plan_section"),
            id="a region that is drawn again redoes its section alone",
        ),
        pytest.param(
            decide("right", {"decision": "accept"}), {"report_section right", "summarise_brain"}, id="an acceptance"
        ),
        pytest.param(
            decide("left", {"decision": "", "comment": "dark"}),
            {"report_section left", "summarise_brain"},
            id="a comment redoes a page and the summary",
        ),
        pytest.param(
            decide("left", {}, {"decision": "accept", "when": "2026-07-02"}),
            {"report_section left", "summarise_brain"},
            id="a decision that was overruled",
        ),
        pytest.param(
            decide("left", {"section": "elsewhere"}), set(), id="decisions about a section that is not in the sheet"
        ),
    ],
)
def test_only_what_changed_is_redone(lab: Lab, change: Callable[[Lab], None], expected: set[str]) -> None:
    change(lab)
    assert lab.would_run() == expected


def test_after_a_failed_job_the_old_results_do_not_pass_for_new_ones(lab: Lab) -> None:
    lab.rows[0]["steps"] = "200"  # slow enough to be caught in the act
    lab.write()
    run = lab.start("results/left/corrected.manifest.json")
    wait_for((lab.folder / "results" / "left" / "mended" / ".0.zarr.work" / "regions").exists, run)
    for process in Path("/proc").glob("[0-9]*"):
        if is_mending(process, lab.folder):
            os.kill(int(process.name), signal.SIGTERM)
    output = run.communicate()[0]
    assert run.returncode != 0, output
    assert lab.would_run() == jobs("left", "mend_shard")


def test_a_job_that_ended_after_its_snakemake_was_killed_does_not_pass_for_another_setting(lab: Lab) -> None:
    store = lab.folder / "results" / "left" / "mended"
    # Of such a job Snakemake knows the output and no settings.
    lab.snakemake("--cleanup-metadata", "results/left/mended/0.manifest.json", "results/left/mended/0.zarr")
    lab.rows[0]["steps"] = "4"
    lab.write()
    run = lab.start("results/left/corrected.manifest.json")
    output = run.communicate()[0]
    assert run.returncode != 0
    assert "0.zarr: was made from other files, settings or code than are asked for now; delete" in output
    (store / "0.manifest.json").unlink()
    lab.snakemake("results/left/corrected.manifest.json")
    made = zarr.open_group(lab.folder / "results" / "left" / "corrected.ome.zarr", mode="r").attrs["cytomend"]
    assert made["sampler_steps"] == 4


def test_a_job_goes_on_with_what_its_run_was_started_with(lab: Lab) -> None:
    shutil.rmtree(lab.folder / "results" / "left" / "mended")
    lab.config["mend"]["seed"] = 1
    lab.write()
    lab.snakemake("results/left/plan.manifest.json", "--force")  # starts a run, which is kept for its jobs
    (run,) = (path for path in (lab.folder / ".snakemake" / "cytomend-runs").iterdir() if seed_of(path) == 1)
    lab.config["mend"]["seed"] = 2
    lab.rows[0]["steps"] = "4"
    lab.write()
    job = ("--mode", "remote", "--executor", "local", "--target-jobs", "mend_shard:section=left,shard=0")
    lab.snakemake(*job, environment={"CYTOMEND_RUN": str(run)})
    made = zarr.open_group(lab.folder / "results" / "left" / "mended" / "0.zarr", mode="r").attrs
    assert (made["seed"], made["sampler_steps"]) == (1, 3)
    edit("diffusion/samplers.py", "x = noise(0)", "x = noise(0) * 1")(lab)
    with pytest.raises(AssertionError, match="was changed since this run was started; end it and start it again"):
        lab.snakemake(*job, environment={"CYTOMEND_RUN": str(run)})


def seed_of(run: Path) -> int:
    """The seed of a run that is kept."""
    return int(json.loads((run / "run.json").read_text())["config"]["mend"]["seed"])


def is_mending(process: Path, folder: Path) -> bool:
    """Whether a process of /proc mends in a folder."""
    try:
        return b"mend-shard" in (process / "cmdline").read_bytes() and (process / "cwd").resolve() == folder.resolve()
    except OSError:
        return False


def test_killing_the_whole_run_leaves_nothing_that_looks_finished_and_the_rerun_gives_the_same_pixels(lab: Lab) -> None:
    undisturbed = lab.corrected("left")
    shutil.rmtree(lab.folder / "results")
    lab.config["mend"]["steps"] = 200  # slow enough to be caught in the act
    lab.write()
    run = lab.start("results/left/corrected.manifest.json")
    begun = lab.folder / "results" / "left" / "mended" / ".0.zarr.work" / "regions"
    wait_for(begun.exists, run)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert not (lab.folder / "results" / "left" / "mended" / "0.manifest.json").exists()
    assert not (lab.folder / "results" / "left" / "corrected.manifest.json").exists()
    lab.config["mend"]["steps"] = 3
    lab.write()
    lab.snakemake("--unlock")
    lab.snakemake()
    np.testing.assert_array_equal(lab.corrected("left"), undisturbed)
    assert lab.would_run() == set()


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            setting("mend", "step", 5), r"mend: .*'step' was unexpected.*known entries are", id="an unknown key"
        ),
        pytest.param(
            setting("mend", "steps", 1000), r"mend\.steps: 1000 is greater than the maximum of 256", id="a bound"
        ),
        pytest.param(
            setting("mend", "model", "no-such"), r"model 'no-such': expected a bundled name", id="an unknown model"
        ),
        pytest.param(delete("data/right.tif"), r"data/right\.tif", id="a missing scan"),
        pytest.param(delete("config/sections.tsv"), r"config/sections\.tsv", id="a missing sheet"),
    ],
)
def test_a_mistake_is_named_before_any_job(lab: Lab, change: Callable[[Lab], None], sentence: str) -> None:
    change(lab)
    process = lab.start("--dry-run")
    output = process.communicate()[0]
    assert process.returncode != 0
    assert re.search(sentence, output), output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "", "brain", "left"])
def test_a_bad_or_doubled_section_name_is_named_with_its_row(lab: Lab, name: str) -> None:
    lab.rows[1]["section"] = name
    lab.write()
    process = lab.start("--dry-run")
    output = process.communicate()[0]
    assert process.returncode != 0
    assert "config/sections.tsv, row 3" in output, output


def test_a_section_that_nobody_annotated_is_mended_where_screening_finds_nothing_left(lab: Lab) -> None:
    image = render_tissue((512, 640), 3).image
    image[200:300, 250:400] = 242
    tifffile.imwrite(lab.folder / "data" / "torn.tif", image, tile=(64, 64))
    lab.rows = [
        {"section": name, "image": f"data/{name}.tif", "annotation": "auto", "pixel_size_um": "1.0", "trials": "0"}
        for name in ("torn", "whole")
    ]
    tifffile.imwrite(lab.folder / "data" / "whole.tif", render_tissue((512, 640), 4).image, tile=(64, 64))
    lab.write()
    lab.snakemake()
    results = lab.folder / "results"
    label = np.asarray(zarr.open_array(results / "torn" / "corrected.ome.zarr" / "labels" / "mended" / "0", mode="r"))
    assert (label[200:300, 250:400] > 0).all()
    assert (label > 0).sum() < 2 * 100 * 150
    np.testing.assert_array_equal(lab.corrected("torn")[label == 0], image[label == 0])
    np.testing.assert_array_equal(lab.corrected("whole"), tifffile.imread(lab.folder / "data" / "whole.tif"))
    page = (results / "torn" / "report" / "index.html").read_text()
    assert "were proposed by screening, and nobody has looked at them" in page
    assert json.loads((results / "whole" / "verdict.json").read_text())["holds"]
    assert lab.would_run() == set()

    # Settings of screening reach these sections, and their own scan only.
    twin = lab.copy(lab.folder.parent / "stricter")
    setting("screen", "min_score", 0.9)(twin)
    redone = ("screen_section", "plan_section", "mend_shard", "blend_section", "verify_section", "report_section")
    assert twin.would_run() == {f"{rule} {name}" for rule in redone for name in ("torn", "whole")} | {"summarise_brain"}
    # Corrected by a person, they are an annotation like any other.
    lab.rows[0]["annotation"] = "data/corrected.geojson"
    shutil.copy(results / "torn" / "screen" / "proposals.geojson", lab.folder / "data" / "corrected.geojson")
    lab.write()
    assert lab.would_run() == {f"{rule} torn" for rule in redone[1:]} | {"summarise_brain"}


def test_proposals_for_all_sections_are_made_without_mending(lab: Lab) -> None:
    output = lab.snakemake("--dry-run", "propose")
    assert set(re.findall(r"rule (\w+):", output)) == {"screen_section", "propose"}
    assert output.count("rule screen_section:") == 2
