"""Show what was done.

Reads scan, plan, corrected pyramid and its verdict; writes one page a section that opens from disk, with tiles to zoom into beside it, its metrics, and the page and table
of all sections.
What is marked with report() comes into the archive of a run, snakemake --report.
"""


report: "../report/workflow.rst"


rule report_section:
    """Write the page of a section."""
    input:
        plan=rules.plan_section.output.manifest,
        corrected=rules.blend_section.output.manifest,
        verdict=rules.verify_section.output.verdict,
        evaluation=evaluation,
        image=image,
    output:
        page="results/{section}/report/index.html",
        metrics="results/{section}/report/metrics.json",
        images=archived(directory("results/{section}/report/images")),
        manifest="results/{section}/report/images.manifest.json",
    log:
        "logs/report_section/{section}.log",
    benchmark:
        "benchmarks/report_section/{section}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 1
    resources:
        mem_mb=memory(report_asks),
        runtime=minutes(report_asks),
    params:
        frame=frame,
        upstream=blend_key,
        proved=verify_key,
        evaluated=evaluate_key,
        evaluation=evaluation_option,
        decisions=decisions_option,
        decided=decided,
        settings=one_line(CONFIG["report"]),
        code=fingerprint("cytomend.stages.report_section"),
        segmenter=SHOWN_SEGMENTER,
        templates=templates(
            "section.html.j2",
            "evaluation.html.j2",
            "decision.html.j2",
            "decisions.html.j2",
            "page.css",
            "viewer.css",
            "decisions.css",
            "viewer.js",
            "decisions.js",
            "vendor/openseadragon/openseadragon.min.js",
        ),
    shell:
        "python -m cytomend report-section --image={input.image:q}{params.frame} --plan results/{wildcards.section}/plan"
        " --corrected results/{wildcards.section}/corrected.ome.zarr --verdict {input.verdict:q}"
        " --proved {params.proved} {params.evaluation:q} {params.decisions:q}"
        " --benchmarks benchmarks"
        " --settings {params.settings:q} --after {params.upstream} --out {output.page:q} &> {log:q}"


rule summarise_brain:
    """Write the table and the page of all sections."""
    input:
        metrics=expand(
            "results/{section}/report/metrics.json", section=sorted(SECTIONS)
        ),
        evaluations=expand(
            "results/{section}/evaluation.manifest.json", section=sorted(EVALUATED)
        ),
    output:
        table=report(
            "results/brain/metrics.tsv",
            caption="../report/metrics.rst",
            category="Sections",
            labels={"section": "all sections", "shows": "the table of numbers"},
        ),
        page="results/brain/report/index.html",
        evaluation=report(
            directory("results/brain/evaluation"),
            patterns=["figures/{figure}.svg"],
            caption="../report/evaluation.rst",
            category="Evaluation",
            labels={"figure": "{figure}"},
        ),
        manifest="results/brain/evaluation.manifest.json",
    log:
        "logs/summarise_brain.log",
    benchmark:
        "benchmarks/summarise_brain.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        sheet=CONFIG["sections"],
        settings=one_line(CONFIG["brain"]),
        code=fingerprint("cytomend.stages.summarise_brain"),
        templates=templates(
            "brain.html.j2",
            "evaluation.html.j2",
            "page.css",
            "brain.css",
            "brain.js",
        ),
    shell:
        "python -m cytomend summarise-brain --sheet={params.sheet:q} --results results --benchmarks benchmarks"
        " --settings {params.settings:q} --out-evaluation {output.evaluation:q} --out-table {output.table:q}"
        " --out-page {output.page:q} &> {log:q}"
