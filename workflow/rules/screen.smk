"""Propose what is damaged, for sections that nobody annotated.

Reads the scan; writes outlines as QuPath does, to be corrected. Only a section whose annotation is `auto` is mended by them as they are.
"""


rule screen_section:
    """Propose the artefacts of a section that nobody annotated."""
    input:
        image=image,
    output:
        proposals="results/{section}/screen/proposals.geojson",
    log:
        "logs/screen_section/{section}.log",
    benchmark:
        "benchmarks/screen_section/{section}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 1
    resources:
        mem_mb=memory(screen_asks),
        runtime=minutes(screen_asks),
    params:
        frame=frame,
        key=screen_key,
        settings=screen_settings,
        pixel_size_um=pixel_size,
    shell:
        "python -m cytomend screen-section --image={input.image:q}{params.frame} --pixel-size-um {params.pixel_size_um}"
        " --settings {params.settings:q} --out {output.proposals:q} --overwrite &> {log:q}"


rule propose:
    """Proposals for every section of the sheet, to be corrected before anything is mended."""
    input:
        expand(rules.screen_section.output.proposals, section=sorted(SECTIONS)),
