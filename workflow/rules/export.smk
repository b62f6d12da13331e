"""Hand it on.

Reads the corrected pyramid; writes it as a TIFF with levels, for viewers that do not read OME-Zarr, and outlines of what is synthetic in it. Only if it is asked for.
"""


rule export_section:
    """Write a corrected section as a TIFF with levels."""
    input:
        corrected=rules.blend_section.output.manifest,
    output:
        image="results/{section}/export/corrected.{kind}.tif",
        outlines="results/{section}/export/mended.{kind}.geojson",
    log:
        "logs/export_section/{section}.{kind}.log",
    benchmark:
        "benchmarks/export_section/{section}.{kind}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 2
    resources:
        mem_mb=memory(verify_asks),
        runtime=minutes(verify_asks),
    params:
        upstream=blend_key,
        code=fingerprint("cytomend.stages.export"),
    shell:
        "python -m cytomend export results/{wildcards.section}/corrected.ome.zarr --kind {wildcards.kind}"
        " --after {params.upstream} --out {output.image:q} --outlines {output.outlines:q} --overwrite &> {log:q}"
