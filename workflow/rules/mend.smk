"""Mend the regions.

Reads the plan, the scan and a checkpoint; writes the mended cells of one shard. The only rule that needs a GPU; without one it computes the
same on the CPU, only slower. A killed job continues where it was.
"""


rule mend_shard:
    """Mend the regions of one shard of a section."""
    input:
        plan=rules.plan_section.output.manifest,
        image=image,
        model=model,
    output:
        manifest="results/{section}/mended/{shard}.manifest.json",
        store=directory("results/{section}/mended/{shard}.zarr"),
    log:
        "logs/mend_shard/{section}.{shard}.log",
    benchmark:
        "benchmarks/mend_shard/{section}.{shard}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory(mend_asks),
        runtime=minutes(mend_asks),
    params:
        frame=frame,
        key=mend_key,
        upstream=plan_key,
        checkpoint=checkpoint,
        settings=mend_settings,
        batch_windows=CONFIG["mend"]["batch_windows"],
        code=fingerprint("cytomend.stages.mend_shard"),
    shell:
        "python -m cytomend mend-shard --image={input.image:q}{params.frame} --plan results/{wildcards.section}/plan"
        " --shard {wildcards.shard} --model={input.model:q} --settings {params.settings:q} --threads {threads}"
        " --gpus {resources.gpu} --batch-windows {params.batch_windows}"
        " --after {params.upstream} --key {params.key} --out {output.store:q} &> {log:q}"
