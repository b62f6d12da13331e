"""What a site meets first: profiles as Snakemake finds them, environments of one set of versions, the checks of CI."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.cli import get_profile_dir, parse_args
from snakemake.exceptions import WorkflowError
from snakemake.utils import available_cpu_count
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT / "envs"))
import lock  # noqa: E402

PINS = dict(pin.split("==") for pin in lock.pins(lock.LOCK.read_text()))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch):
    """A function from the words of a command line to what Snakemake makes of them in the checkout."""
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)

    def parse(*words: str):
        monkeypatch.setattr(sys, "argv", ["snakemake", *words])
        return parse_args(list(words))[1]

    return parse


def test_without_a_profile_all_cores_of_this_machine_work(parsed) -> None:
    assert parsed().cores == available_cpu_count()
    assert parsed("--cores", "1").cores == 1


@pytest.mark.parametrize(
    "words",
    [["--profile", "profiles/slurm"], ["--profile=profiles/slurm"], ["--workflow-profile", "slurm"]],
    ids=" ".join,
)
def test_jobs_on_a_cluster_are_not_cut_to_the_cores_of_the_login_node(parsed, words: list[str]) -> None:
    found = parsed(*words)
    assert found.cores is None
    assert (found.executor, found.jobs, found.retries) == ("slurm", 100, 1)
    assert found.keep_going
    assert found.rerun_incomplete


def test_a_profile_of_the_environment_or_another_executor_gets_no_cores_from_here_either(parsed, monkeypatch) -> None:
    assert parsed("--executor", "slurm", "--jobs", "3").cores is None
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/slurm")
    assert (parsed().cores, parsed().executor) == (None, "slurm")


def test_the_gpu_model_of_the_example_is_asked_for() -> None:
    text = (CHECKOUT / "profiles" / "slurm" / "config.yaml").read_text()
    example = re.search(r"# a certain GPU: (mend_shard: \{.*\})$", text, flags=re.MULTILINE)
    assert example
    asked = yaml.safe_load(example[1])["mend_shard"]
    assert asked.items() > yaml.safe_load(text)["set-resources"]["mend_shard"].items()
    resources = {"gpu": 1, "gpu_model": asked["gpu_model"].strip("'")}
    assert set_gres_string(SimpleNamespace(resources=resources)) == " --gpus=a100:1"


def test_what_the_docs_suggest_for_a_site_is_taken_by_the_plugin() -> None:
    text = (CHECKOUT / "docs" / "cluster.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    extra = re.search(r"`slurm_extra: (\".*?\")`", text)
    assert block
    assert extra
    asked = {
        name: str(value).strip("'") for name, value in yaml.safe_load(block[1])["set-resources"]["mend_shard"].items()
    }
    assert set_gres_string(SimpleNamespace(resources=asked)) == " --gpus=a100:4"
    assert eval(asked["mem_mb"], {"attempt": 2}) == 128000
    validate_slurm_extra(SimpleNamespace(resources=SimpleNamespace(slurm_extra=yaml.safe_load(extra[1]).strip("'"))))
    with pytest.raises(WorkflowError, match="not allowed"):
        validate_slurm_extra(SimpleNamespace(resources=SimpleNamespace(slurm_extra="--qos=long")))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose .venv is ready, as far as `make setup` looks."""
    folder = tmp_path / "a checkout"
    for name in ("Makefile", "pyproject.toml", "envs/requirements.lock", "profiles/slurm/config.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, folder / name)
    (folder / ".venv").mkdir()
    make(folder, "--eval=ready: ; @$(WITNESS) > .venv/ready", "ready")
    return folder


def make(folder: Path, *words: str) -> None:
    # Not what the make that runs these tests hands down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "--no-print-directory", *words], cwd=folder, env=environment, check=True, timeout=60)


def test_after_make_setup_the_slurm_profile_is_found_by_its_name(checkout: Path, monkeypatch) -> None:
    make(checkout, "setup")
    make(checkout, "setup")
    assert (checkout / "slurm").readlink() == Path("profiles/slurm")
    monkeypatch.chdir(checkout)
    _, file = get_profile_dir("slurm")
    assert file.samefile(checkout / "profiles" / "slurm" / "config.yaml")
    ignored = (CHECKOUT / ".gitignore").read_text().splitlines()
    assert "/slurm" in ignored


def test_make_setup_leaves_what_is_called_slurm_already(checkout: Path) -> None:
    (checkout / "slurm").mkdir()
    make(checkout, "setup")
    assert list((checkout / "slurm").iterdir()) == []
    assert not (checkout / "slurm").is_symlink()


def test_the_environment_for_celldetection_has_the_versions_of_the_lock() -> None:
    text = lock.CELLDETECTION.read_text()
    packages = yaml.safe_load(text)["dependencies"][-1]["pip"]
    exact = dict(package.split("==") for package in packages)
    assert set(exact) - set(PINS) == {"torchvision", "celldetection"}
    assert {name: PINS[name] for name in exact if name in PINS}.items() <= exact.items(), "run `make lock`"
    assert lock.repinned(text.replace("numpy==", "numpy==0."), lock.LOCK.read_text()) == text


def test_the_catalog_is_told_what_there_is() -> None:
    usage = yaml.safe_load((CHECKOUT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["software-stack-deployment"] == {"conda": True, "apptainer": False, "apptainer+conda": False}
    rules = "".join(path.read_text() for path in (CHECKOUT / "workflow" / "rules").glob("*.smk"))
    assert rules.count("    conda:\n") == rules.count("    shell:\n")
    assert "container:" not in rules
    assert (CHECKOUT / "config" / "README.md").read_text().startswith("# Configuration\n")


COMMANDS = {
    "make": '#!/bin/sh\necho "made $1"\n'
    '[ "$1" != test-slurm ] || { mkdir -p "$TMPDIR/cluster" && touch "$TMPDIR/cluster/env.sh" && exit ${LATER:-0}; }\n',
    "chromium": "#!/bin/sh\n",
    "id": "#!/bin/sh\necho ${WHO:-0}\n",
}
STOP = '#!/bin/sh\ntest "$1" = --purge && test -e "$2/env.sh" && echo "stopped $(basename "$2")"\n'


@pytest.fixture
def continuous(tmp_path: Path):
    """A function that runs .ci/run with stand-ins for make and Slurm and returns its status and what it says."""
    folder = tmp_path / "main"
    for path, text in {
        **{tmp_path / "bin" / name: text for name, text in COMMANDS.items()},
        folder / ".ci" / "run": (CHECKOUT / ".ci" / "run").read_text(),
        tmp_path / "shared" / "slurm" / "start-slurm": "#!/bin/sh\n",
        tmp_path / "shared" / "slurm" / "stop-slurm": STOP,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "tmp").mkdir()

    def run(**variables: str) -> tuple[int, list[str]]:
        search = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": search, "TMPDIR": str(tmp_path / "tmp"), **variables}
        done = subprocess.run([folder / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60)
        assert list((tmp_path / "tmp").iterdir()) == []
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.mark.parametrize("status", [0, 1])
def test_ci_leaves_no_cluster_running(continuous, status: int) -> None:
    code, said = continuous(LATER=str(status))
    assert said == ["made test", "made test-slurm", "stopped cluster"]
    assert bool(code) == bool(status)


def test_ci_says_that_slurm_was_left_out(continuous, tmp_path: Path) -> None:
    for change in ({"WHO": "1000"}, {}):
        if not change:
            shutil.rmtree(tmp_path / "shared")
        code, said = continuous(**change)
        assert code == 0
        assert said[0] == "made test"
        assert re.search("test-slurm was left out", said[1])
