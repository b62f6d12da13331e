"""Find the damage.

Reads the annotation, and the scan once for its hash; writes the regions, their windows on the section's lattice, and which shard mends which.
"""


rule plan_section:
    """Find the regions of a section, lay their windows, pack shards."""
    input:
        image=image,
        annotations=annotations,
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
        mem_mb=memory(plan_asks),
        runtime=minutes(plan_asks),
    params:
        frame=frame,
        key=plan_key,
        editions=editions_of,
        annotations=annotation_options,
        settings=plan_settings,
        code=fingerprint("cytomend.stages.plan_section"),
    shell:
        "python -m cytomend plan-section --image={input.image:q}{params.frame} {params.annotations:q}"
        " --settings {params.settings:q} --editions {params.editions:q}"
        " --key {params.key} --out {output.plan:q} &> {log:q}"
