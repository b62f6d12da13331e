"""Resolve the exact versions of everything (``make lock``): requirements.lock, and from it what conda is told."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"
CONDA = HERE / "cytomend.yaml"
CELLDETECTION = HERE / "celldetection.yaml"


def portable(lock: str) -> str:
    """Return a lock without the mark of a CPU build, so that each machine takes the build that suits it."""
    return lock.replace("+cpu", "")


def pins(lock: str) -> list[str]:
    """Return the exact versions that a lock names."""
    return [line.strip() for line in lock.splitlines() if "==" in line and not line.lstrip().startswith("#")]


def conda_environment(lock: str) -> str:
    """Return the conda environment with the versions of a lock.

    They are spelled out, since Snakemake copies the file elsewhere before building it and a path in it would point
    nowhere.
    """
    head = "# Made from requirements.lock by `make lock`; do not edit.\nchannels:\n  - conda-forge\n  - nodefaults\n"
    head += "dependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
    return head + "".join(f"      - {pin}\n" for pin in pins(lock))


def repinned(environment: str, lock: str) -> str:
    r"""Return an environment that is written by hand with the versions of a lock, for what both name.

    >>> repinned("- numpy==2.0.0\n- timm==1.0", "numpy==2.4.6")
    '- numpy==2.4.6\n- timm==1.0'
    """
    versions = dict(pin.split("==") for pin in pins(lock))
    return re.sub(r"(?<=- )(\S+)==(\S+)", lambda pin: f"{pin[1]}=={versions.get(pin[1], pin[2])}", environment)


if __name__ == "__main__":
    options = ["--extra=dev", "--strip-extras", "--allow-unsafe", "--no-header", "--no-emit-index-url"]
    options += ["--no-emit-find-links", "--no-emit-trusted-host", "--no-emit-options", "--quiet", *sys.argv[1:]]
    subprocess.run(
        [sys.executable, "-m", "piptools", "compile", *options, f"--output-file={LOCK}", "pyproject.toml"],
        check=True,
        cwd=HERE.parent,
    )
    LOCK.write_text(portable(LOCK.read_text()))
    CONDA.write_text(conda_environment(LOCK.read_text()))
    CELLDETECTION.write_text(repinned(CELLDETECTION.read_text(), LOCK.read_text()))
