from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/screen.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/mend.smk"
include: "workflow/rules/blend.smk"
include: "workflow/rules/verify.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/start.smk"


rule all:
    """Every section corrected and evaluated, with its page, and the page of the whole run."""
    default_target: True
    input:
        expand("results/{section}/corrected.ome.zarr", section=sorted(SECTIONS)),
        expand("results/{section}/corrected.manifest.json", section=sorted(SECTIONS)),
        expand("results/{section}/verdict.json", section=sorted(SECTIONS)),
        exports(),
        expand("results/{section}/evaluation", section=sorted(EVALUATED)),
        expand("results/{section}/evaluation.manifest.json", section=sorted(EVALUATED)),
        expand("results/{section}/report/index.html", section=sorted(SECTIONS)),
        "results/brain/report/index.html",
        "results/brain/metrics.tsv",
        "results/brain/evaluation",
        "results/brain/evaluation.manifest.json",
