"""Ask how good mending is.

Reads the plan, the scan and a checkpoint; masks intact tissue in the shape of artefacts and mends it (on a GPU, as `mend_shard` does), then
compares what segmenters, a classifier and statistics say before and after, beside controls. Other segmenters need no new mending.
"""


rule mend_trials:
    """Mend masks laid over intact tissue of a section."""
    input:
        plan=rules.plan_section.output.manifest,
        image=image,
        model=model,
    output:
        manifest="results/{section}/trials.manifest.json",
        store=directory("results/{section}/trials.zarr"),
    log:
        "logs/mend_trials/{section}.log",
    benchmark:
        "benchmarks/mend_trials/{section}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory(trials_asks),
        runtime=minutes(trials_asks),
    params:
        frame=frame,
        key=trials_key,
        upstream=plan_key,
        checkpoint=checkpoint,
        mend=mend_settings,
        settings=trial_settings,
        batch_windows=CONFIG["mend"]["batch_windows"],
        parts=one_line(SAMPLER_PARTS),
        code=fingerprint("cytomend.stages.mend_trials"),
    shell:
        "python -m cytomend mend-trials --image={input.image:q}{params.frame} --plan results/{wildcards.section}/plan"
        " --model={input.model:q} --mend {params.mend:q} --settings {params.settings:q}"
        " --threads {threads} --batch-windows {params.batch_windows}"
        " --after {params.upstream} --key {params.key} --out {output.store:q} &> {log:q}"


rule evaluate_section:
    """Compare what segmenters, a classifier and statistics say of a section's trials before and after mending."""
    input:
        plan=rules.plan_section.output.manifest,
        trials=rules.mend_trials.output.manifest,
        image=image,
        known=known_files,
    output:
        manifest="results/{section}/evaluation.manifest.json",
        evaluation=directory("results/{section}/evaluation"),
    log:
        "logs/evaluate_section/{section}.log",
    benchmark:
        "benchmarks/evaluate_section/{section}.tsv"
    conda:
        "../../envs/cytomend.yaml"
    threads: 4
    resources:
        mem_mb=memory(evaluate_asks),
        runtime=minutes(evaluate_asks),
    params:
        frame=frame,
        key=evaluate_key,
        upstream=trials_key,
        known=known_options,
        content=known_content,
        settings=evaluate_settings,
        parts=one_line(EVALUATION_PARTS),
        code=fingerprint("cytomend.stages.evaluate_section"),
    shell:
        "python -m cytomend evaluate-section --image={input.image:q}{params.frame} --plan results/{wildcards.section}/plan"
        " --trials results/{wildcards.section}/trials.zarr {params.known:q} --settings {params.settings:q}"
        " --threads {threads} --after {params.upstream} --key {params.key} --out {output.evaluation:q} &> {log:q}"
