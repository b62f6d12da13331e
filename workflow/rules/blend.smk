"""Put the section together again.

Streams the scan once, with the mended cells of all shards in their places, into an OME-Zarr pyramid with the label `mended`.
"""


rule blend_section:
    """Write the corrected pyramid of a section."""
    input:
        plan=rules.plan_section.output.manifest,
        shards=shard_manifests,
        image=image,
    output:
        manifest="results/{section}/corrected.manifest.json",
        corrected=directory("results/{section}/corrected.ome.zarr"),
    log:
        "logs/blend_section/{section}.log",
    benchmark:
        "benchmarks/blend_section/{section}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 2
    resources:
        mem_mb=memory(blend_asks),
        runtime=minutes(blend_asks),
    params:
        frame=frame,
        key=blend_key,
        upstream=mend_key,
        stores=shard_stores,
        settings=one_line(CONFIG["pyramid"]),
        code=fingerprint("cytomend.stages.blend_section"),
    shell:
        "python -m cytomend blend-section --image={input.image:q}{params.frame} --plan results/{wildcards.section}/plan"
        " --shards {params.stores:q} --settings {params.settings:q} --after {params.upstream}"
        " --key {params.key} --out {output.corrected:q} &> {log:q}"
