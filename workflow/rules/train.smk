"""Train a model.

Reads a training file (`--config train=config/train/base.yaml`); gathers patches of intact tissue from each section of its sheets, one job and
one store a section, and trains on them under torchrun, one process a GPU. An interrupted training goes on where it was. Nothing here is part
of `rule all`.
"""


rule gather_patches:
    """Gather patches of intact tissue of a section, for training."""
    input:
        image=training_image,
        annotations=training_annotations,
    output:
        manifest="results/training/{model}/patches/{section}.manifest.json",
        store=directory("results/training/{model}/patches/{section}.zarr"),
    log:
        "logs/gather_patches/{model}.{section}.log",
    benchmark:
        "benchmarks/gather_patches/{model}.{section}.tsv"
    wildcard_constraints:
        section=one_of(TRAINING_SECTIONS),
        model=one_of([TRAINING_NAME]),
    conda:
        "../../envs/cytomend.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        frame=training_frame,
        image=training_image_content,
        annotations=training_annotation_options,
        annotation_content=training_annotation_content,
        settings=gather_settings,
        code=fingerprint("cytomend.stages.gather_patches"),
    shell:
        "python -m cytomend gather-patches --image={input.image:q}{params.frame} {params.annotations:q}"
        " --settings {params.settings:q} --source {params.image} --out {output.store:q} &> {log:q}"


rule train_model:
    """Train a model on the patches, or go on with it."""
    input:
        patches=patch_manifests,
        settings=training_file,
        files=training_files,
    output:
        model="results/training/{model}/model.safetensors",
        card="results/training/{model}/MODEL_CARD.md",
        losses="results/training/{model}/loss.tsv",
        samples="results/training/{model}/samples.png",
    log:
        "logs/train_model/{model}.log",
    benchmark:
        "benchmarks/train_model/{model}.tsv"
    wildcard_constraints:
        model=one_of([TRAINING_NAME]),
    conda:
        "../../envs/cytomend.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=64000,
        runtime=1440,
    params:
        upstream=training_key,
        code=fingerprint("cytomend.stages.train"),
        templates=templates("model_card.md.j2"),
    shell:
        "python -m torch.distributed.run --standalone --nproc-per-node {resources.gpu} -m cytomend train"
        " {input.settings:q} --patches results/training/{wildcards.model:q}/patches --set-aside"
        " --out results/training/{wildcards.model:q} &> {log:q}"


rule train:
    """The model of the training file that `--config train=FILE` names."""
    input:
        trained_model,
