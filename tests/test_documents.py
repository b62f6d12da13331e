"""What is written agrees with what is: lock and environments, schemas and configuration, README and workflow."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from cytomend.diffusion.samplers import SAMPLERS
from cytomend.settings import checked, read_yaml, schema
from cytomend.sheet import STEPS
from cytomend.stages.mend_shard import MendSettings

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT / "envs"))
import lock  # noqa: E402

LOCK = (CHECKOUT / "envs" / "requirements.lock").read_text()


def test_the_conda_environment_has_the_versions_of_the_lock() -> None:
    assert (CHECKOUT / "envs" / "cytomend.yaml").read_text() == lock.conda_environment(LOCK)


def test_the_lock_names_every_dependency_in_a_version_that_pyproject_allows() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    pinned = dict(pin.split("==") for pin in lock.pins(LOCK))
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), line


def test_the_lock_names_no_build_of_one_machine_and_no_registry() -> None:
    assert lock.portable(LOCK) == LOCK
    assert not re.search(r"https?://|file:/|--index|--find-links", LOCK)


def entries(rules: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, rule in rules.get("properties", {}).items():
        yield f"{name}.{key}", rule
        yield from entries(rule, f"{name}.{key}")


@pytest.mark.parametrize("name", ["config", "sections", "decisions", "train", "segmenter", "classifier"])
def test_every_entry_of_a_schema_is_described_and_no_unknown_key_is_taken(name: str) -> None:
    assert schema(name)["additionalProperties"] is False
    for entry, rule in entries(schema(name), name):
        assert len(rule.get("description", "")) > 5, entry
        if rule.get("type") == "object":
            # A list of names of the user's own has no known keys, but says what each is.
            assert rule["additionalProperties"] is False or rule["additionalProperties"]["type"], entry


def test_the_default_configuration_spells_out_every_entry_with_its_default() -> None:
    written = yaml.safe_load((CHECKOUT / "config" / "config.yaml").read_text())
    assert written == checked({}, "config", "nothing")


def test_steps_of_samplers_agree() -> None:
    assert {name: sampler.steps for name, sampler in SAMPLERS.items()} == STEPS
    assert schema("config")["properties"]["mend"]["properties"]["sampler"]["enum"] == list(SAMPLERS)
    assert MendSettings("repaint", 256, 10, 10, 0).choose() == SAMPLERS["repaint"]


def test_the_graph_in_the_readme_is_that_of_the_workflow(tmp_path: Path) -> None:
    for n in (1, 2):
        folder = tmp_path / "demo" / f"phantom-{n}"
        folder.mkdir(parents=True)
        for name in ("section.tif", "mask.geojson", "mask.tif"):
            (folder / name).touch()
    (tmp_path / "config").symlink_to(CHECKOUT / "config")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "-s", CHECKOUT / "Snakefile", "--rulegraph", "mermaid-js"]
    graph = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    readme = CHECKOUT / "README.md"
    shown = re.search(r"```mermaid\n(.*?)```", readme.read_text(), flags=re.DOTALL)
    assert shown is not None
    # Snakemake prints the edges in any order.
    assert set(shown[1].split("\n")) == set(graph.split("\n")), f"put this graph into README.md:\n{graph}"


def test_every_file_that_the_documents_link_to_exists() -> None:
    for document in (CHECKOUT / "README.md", CHECKOUT / "config" / "README.md", *CHECKOUT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


@pytest.mark.parametrize("path", sorted((CHECKOUT / "config" / "train").glob("*.yaml")), ids=lambda path: path.name)
def test_every_training_file_keeps_to_its_schema(path: Path) -> None:
    assert read_yaml(path, "train")["steps"] >= 1


@pytest.mark.parametrize("path", [CHECKOUT / "config" / "demo.yaml", CHECKOUT / "tests" / "real_tile" / "config.yaml"])
def test_every_configuration_keeps_to_its_schema(path: Path) -> None:
    assert (CHECKOUT / read_yaml(path, "config")["sections"]).is_file()
