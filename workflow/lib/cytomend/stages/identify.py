"""Read files whose times changed, so that the workflow knows them when it is read next.

A file that was planned and then touched, copied or restored is read once to see whether it still holds the same. The
workflow does so itself while there is little to read; thousands of restored scans are read here, in a job. What was
read is kept now and then, so that it may be interrupted and started again.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from cytomend.settings import read_yaml
from cytomend.sheet import read_sheet
from cytomend.storage.edition import editions, sources_in
from cytomend.storage.identity import IDENTITIES, cached_identities
from cytomend.training_file import read_training_file

log = logging.getLogger(__name__)


def identify(configfile: Path, results: Path, cache: Path, training_file: Path | None = None) -> int:
    """Read what must be read of the sections of a configuration, and of a training file; return how many files.

    Raises
    ------
    InputError
        If the configuration cannot be used, or a file is missing or may not be read.
    """
    config = read_yaml(configfile, "config")
    sections = read_sheet(Path(config["sections"]), config)
    read = 0

    def identities(paths: list[Path]) -> dict[Path, str]:
        nonlocal read
        read += len(paths)
        return cached_identities(paths, cache)

    editions(
        {
            name: (section.planned_files, sources_in(results / name / "plan.manifest.json"))
            for name, section in sections.items()
        },
        identities,
    )
    identities([path for section in sections.values() for path in section.known_files.values()])
    if named := training_file or ("train" in config and Path(config["train"])):
        identities(read_training_file(named).all_files())
    log.info("%d sections: %d files are known by their content in %s", len(sections), read, cache)
    return read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--configfile", type=Path, default=Path("config/config.yaml"), help="the configuration")
    parser.add_argument("--train", type=Path, help="training file whose scans are read too")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results")
    parser.add_argument("--cache", type=Path, default=IDENTITIES, help="where the workflow looks for what was read")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    print(identify(args.configfile, args.results, args.cache, args.train))
