"""A fingerprint changes with behaviour and with nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import pytest

from cytomend import fingerprint as printing

FILES = {
    "__init__.py": '__version__ = "0.1.0"',
    "stages/__init__.py": "",
    "stages/mend.py": '''
        """Mend."""
        from cytomend.diffusion import sampler
        from ..storage.disk import write

        def mend(x):
            """Return x, mended."""
            import cytomend.late  # only here
            return write(sampler.step(x))
    ''',
    "diffusion/__init__.py": "",
    "diffusion/sampler.py": '''
        from cytomend.deep import constant

        class Sampler:
            """Draws."""

            steps = 3

        def step(x):
            return x + constant
    ''',
    "deep.py": "constant = 1",
    "late.py": "late = 1",
    "storage/__init__.py": "",
    "storage/disk.py": "def write(x):\n    return x",
    "unrelated.py": "other = 1",
}


def forget():
    for function in (printing.fingerprint, printing._tree, printing._imports, printing._behaviour):
        function.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes a package, with some files changed, and returns the fingerprint of its stage."""
    root = tmp_path / "cytomend"
    monkeypatch.setattr(printing, "PACKAGE", root)

    def changed(name=None, before="", after=""):
        for file, text in FILES.items():
            text = textwrap.dedent(text)
            if file == name:
                assert before in text
                text = text.replace(before, after, 1)
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)
        forget()
        return printing.fingerprint("cytomend.stages.mend")

    yield changed
    printing.fingerprint.cache_clear()
    printing._tree.cache_clear()


@pytest.mark.parametrize(
    "change",
    [
        ("stages/mend.py", "# only here", "# said otherwise"),
        ("stages/mend.py", "Return x, mended.", "Give it back."),
        ("stages/mend.py", '"""Mend."""', ""),
        ("stages/mend.py", "write(sampler.step(x))", "write(\n        sampler.step( x ),\n    )"),
        ("diffusion/sampler.py", '    """Draws."""\n', ""),
        ("diffusion/sampler.py", "x + constant", "(x + constant)  # noqa"),
        ("deep.py", "constant = 1", "\n\nconstant=0x1\n"),
        ("unrelated.py", "1", "2"),
        ("__init__.py", "0.1.0", "0.2.0"),
    ],
)
def test_comments_docstrings_layout_and_other_modules_do_not_count(package, change):
    assert package(*change) == package()


@pytest.mark.parametrize(
    "change",
    [
        ("stages/mend.py", "write(sampler.step(x))", "write(sampler.step(-x))"),
        ("diffusion/sampler.py", "x + constant", "x - constant"),
        ("diffusion/sampler.py", "steps = 3", "steps = 4"),
        ("deep.py", "1", "2"),
        ("late.py", "1", "2"),
        ("storage/disk.py", "return x", "return x, x"),
        ("stages/mend.py", "import cytomend.late", "import cytomend.unrelated"),
    ],
)
def test_a_change_of_behaviour_counts_wherever_it_is_reached_from(package, change):
    assert package(*change) != package()


def test_an_unknown_module_is_told(package):
    package()
    with pytest.raises(FileNotFoundError, match="no module"):
        printing.fingerprint("cytomend.stages.nothing")


def test_each_stage_has_its_own_fingerprint_without_loading_torch():
    stages = ["plan_section", "mend_shard", "blend_section", "train"]
    assert len({printing.fingerprint(f"cytomend.stages.{stage}") for stage in stages}) == len(stages)
    reached = printing._reached("cytomend.stages.mend_shard")
    assert {"cytomend.diffusion.samplers", "cytomend.diffusion.noise", "cytomend.storage.tiff"} <= reached
    assert not any("phantom" in module or "training" in module for module in reached)


STAGES = ("plan_section", "mend_shard", "blend_section", "mend_trials", "evaluate_section", "report_section")


TELL = """
import importlib, os, sys
import matplotlib.pyplot, pandas, scipy.ndimage, skimage.measure, tifffile, torch, zarr  # the slow ones once for all
for stage in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(f"cytomend.stages.{stage}")
        print(stage, *(module for module in sys.modules if module.startswith("cytomend.")), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded():
    """By stage, the modules of this package that Python loads with it: what reaches its results, by another witness."""
    told = subprocess.run([sys.executable, "-c", TELL, *STAGES], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in told.splitlines()]
    return {line[0]: set(line[1:]) for line in lines}


def test_an_edit_of_each_module_of_the_library_redoes_the_stages_that_load_it(loaded, tmp_path, monkeypatch):
    copy = tmp_path / "cytomend"
    shutil.copytree(printing.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    forget()
    monkeypatch.setattr(printing, "PACKAGE", copy)
    before = {stage: printing.fingerprint(f"cytomend.stages.{stage}") for stage in STAGES}
    everything = set().union(*loaded.values())
    assert len(everything) > 80
    for module in sorted(everything):
        place = copy.parent.joinpath(*module.split("."))
        path = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
        text = path.read_text()
        for edit, counts in (("\n# a comment\n", False), ("\nedited = 1\n", True)):
            path.write_text(text + edit)
            printing.fingerprint.cache_clear()
            monkeypatch.setattr(printing, "_behaviour", renewed(module))
            after = {stage: printing.fingerprint(f"cytomend.stages.{stage}") for stage in STAGES}
            monkeypatch.undo()
            monkeypatch.setattr(printing, "PACKAGE", copy)
            changed = {stage for stage in STAGES if after[stage] != before[stage]}
            must = {stage for stage in STAGES if counts and module in loaded[stage]}
            assert changed >= must, module
            assert counts or not changed, module
        path.write_text(text)
    forget()


def renewed(module):
    """As if this module alone had not been read yet; reading all of them anew for each edit would take minutes."""
    known = printing._behaviour

    def behaviour(name):
        if name != module:
            return known(name)
        printing._tree.cache_clear()
        return known.__wrapped__(name)

    return behaviour
