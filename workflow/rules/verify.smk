"""Prove it.

Reads scan, plan and corrected pyramid through once; writes what holds and what does not, which the section's page shows. A section that is wrong
fails no job: its verdict says so.
"""


rule verify_section:
    """Prove that a corrected section is its scan but for what it marks as mended."""
    input:
        plan=rules.plan_section.output.manifest,
        corrected=rules.blend_section.output.manifest,
        image=image,
    output:
        verdict="results/{section}/verdict.json",
    log:
        "logs/verify_section/{section}.log",
    benchmark:
        "benchmarks/verify_section/{section}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 2
    resources:
        mem_mb=memory(verify_asks),
        runtime=minutes(verify_asks),
    params:
        frame=frame,
        key=verify_key,
        upstream=blend_key,
        code=fingerprint("cytomend.stages.verify_section"),
    shell:
        "python -m cytomend verify-section --image={input.image:q}{params.frame} --plan results/{wildcards.section}/plan"
        " --corrected results/{wildcards.section}/corrected.ome.zarr --after {params.upstream}"
        " --key {params.key} --out {output.verdict:q} &> {log:q}"
