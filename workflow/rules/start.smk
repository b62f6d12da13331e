"""Before the first job: keep what the run is started with, and ask Slurm whether it could ever run the jobs.

A job that no node can take, or whose time is longer than its partition allows, would pend for ever.
"""

from cytomend.cluster import JobRequest, largest, refused
from cytomend.frozen import freeze

STAGES = (
    "plan_section",
    "mend_shard",
    "blend_section",
    "mend_trials",
    "evaluate_section",
    "report_section",
    "summarise_brain",
)


def slurm_requests(attempt):
    """What all jobs will ask of Slurm at an attempt, as far as it is known already."""
    for job in workflow.dag.needrun_jobs():
        if not job.is_local:
            resources = job.rule.expand_resources(
                job.wildcards_dict, job.input, attempt, {"tmpdir"}
            )
            yield JobRequest.of(job.rule.name, resources["_cores"], resources)


def check_slurm():
    """Refuse what can never run; tell what cannot run for now, or could not run if it had to be repeated with more."""
    advice = "change what the rule asks for in the profile (docs/cluster.md, Adapting to a site)"
    refusals = refused(largest(slurm_requests(1)))
    if hopeless := [refusal.sentence for refusal in refusals if not refusal.for_now]:
        raise WorkflowError(
            f"No node can take these jobs; they would pend for ever; {advice}:",
            *hopeless,
        )
    for refusal in refusals:
        logger.warning(f"Cannot start as the cluster is now: {refusal.sentence}")
    last = workflow.execution_settings.retries + 1
    for refusal in refused(largest(slurm_requests(last))) if last > 1 else ():
        if refusal not in refusals:
            logger.warning(
                f"If it fails, attempt {last} would pend for ever; {advice}: {refusal.sentence}"
            )


onstart:
    freeze(CONFIG, [f"cytomend.stages.{stage}" for stage in STAGES])
    if workflow.executor_plugin.name == "slurm":
        check_slurm()
