"""The command line: ``cytomend STAGE ...``. Stages are imported when called, so that ``--help`` loads no torch."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from cytomend import __version__
from cytomend.console import lost_output, use_outlets
from cytomend.diary import Stopped, begin_log, supervised, told
from cytomend.errors import InputError, ResourceError

STAGES = {
    "mend": "mend one scan: image and mask in, corrected OME-Zarr out",
    "evaluate": "evaluate mending on one scan: trials with controls, tables, figures",
    "convert": "store a scan in chunks, if it is one in strips or in one piece",
    "export": "write a corrected section as OME-TIFF or TIFF with levels",
    "identify": "read files whose times changed, before the workflow asks for them",
    "phantom": "make a phantom section with known cells and artefacts",
    "gather-patches": "gather patches of intact tissue of a section, for training",
    "train": "train a model on sections and phantoms",
    "train-segmenter": "train a cell segmenter on phantoms and labelled images",
    "segment": "find the cells of a scan",
    "train-classifier": "train a classifier of layers or areas",
    "screen-section": "propose the artefacts of a section that nobody annotated",
    "plan-section": "find the regions of a section, lay their windows, pack shards",
    "mend-shard": "mend the regions of one shard",
    "blend-section": "write the corrected pyramid of a section",
    "mend-trials": "mend masks laid over intact tissue of a section",
    "evaluate-section": "compare mended trials with intact tissue, and with controls",
    "verify-section": "prove that a corrected section is its scan but for what it marks as mended",
    "report-section": "write the page of a section",
    "summarise-brain": "write the table and the page of all sections",
    "verify": "say in plain words whether corrected sections can be trusted",
    "status": "say where each section of a run stands, what failed, and whether results are whole",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage and return the exit status: 0 done, 1 the machine's limits, 2 the user's input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    stage = next((word for word in arguments if word in STAGES), None)
    parser = argparse.ArgumentParser(
        prog="cytomend", description="Mend damaged regions of histological brain sections."
    )
    parser.add_argument("--version", action="version", version=f"cytomend {__version__}")
    commands = parser.add_subparsers(metavar="STAGE", required=True)
    for name, purpose in STAGES.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        if name == stage:
            module = importlib.import_module(f"cytomend.stages.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.main, module=module)
    args = parser.parse_args(arguments)
    begin_log()
    try:
        importlib.import_module("cytomend.handed").check_handed(stage, args.module, args)
        args.run(args)
    except (InputError, ResourceError, Stopped) as error:
        print(f"cytomend {stage}: {told(error)}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(f"cytomend {stage}: interrupted; run again to continue", file=sys.stderr)
        return 130
    return 0


def run() -> int:
    """Run one stage as a job: if it is killed, its log says so; what cannot be printed undoes no work."""
    use_outlets()
    return supervised(_printed)


def _printed() -> int:
    """Run one stage, and say where its output is lost."""
    status = main()
    if sys.stdout is not None:
        sys.stdout.flush()
    if lost := lost_output():
        print(f"cytomend: {lost}", file=sys.stderr)
        return status or ResourceError.status
    return status
