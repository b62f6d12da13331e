"""Ask Slurm, before the first job is queued, whether it could ever run the jobs of this run.

A job that no node can take, or whose time is longer than its partition allows, would pend for ever.
"""

from cytomend.cluster import JobRequest, largest, refused


def slurm_requests(attempt):
    """What all jobs will ask of Slurm at an attempt, as far as it is known already."""
    for job in workflow.dag.needrun_jobs():
        if not job.is_local:
            resources = job.rule.expand_resources(
                job.wildcards_dict, job.input, attempt, {"tmpdir"}
            )
            yield JobRequest.of(job.rule.name, resources["_cores"], resources)


def check_slurm():
    """Refuse what can never run, and tell what could not run if it had to be repeated with more."""
    advice = "change the profile (docs/cluster.md), or spread a section over more jobs by the column shards:"
    if hopeless := refused(largest(slurm_requests(1))):
        raise WorkflowError(
            f"No node can take these jobs as the cluster is now; they would pend for ever; {advice}",
            *hopeless,
        )
    last = workflow.execution_settings.retries + 1
    if last > 1 and (hopeless := refused(largest(slurm_requests(last)))):
        logger.warning(
            "\n".join(
                [
                    f"If one of these jobs fails, attempt {last} would pend for ever; {advice}",
                    *hopeless,
                ]
            )
        )


onstart:
    if workflow.executor_plugin.name == "slurm":
        check_slurm()
