"""A fingerprint changes with behaviour and with nothing else."""

from __future__ import annotations

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
        printing.fingerprint.cache_clear()
        printing._tree.cache_clear()
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
