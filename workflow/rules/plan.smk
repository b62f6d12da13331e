"""Find the damage.

Reads the header of the scan and the annotation; writes the regions, their windows on the section's lattice, and which shard mends which.
"""


rule plan_section:
    """Find the regions of a section, lay their windows, pack shards."""
    input:
        image=image,
        annotation=annotation,
    output:
        manifest="results/{section}/plan.manifest.json",
        plan=directory("results/{section}/plan"),
    log:
        "logs/plan_section/{section}.log",
    benchmark:
        "benchmarks/plan_section/{section}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        image=image_content,
        annotation=annotation_content,
        settings=plan_settings,
        code=fingerprint("cytomend.stages.plan_section"),
    shell:
        "python -m cytomend plan-section --image={input.image:q} --annotation={input.annotation:q}"
        " --settings {params.settings:q} --out {output.plan:q} &> {log:q}"
