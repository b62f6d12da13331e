"""The diffusion model: network, schedule, samplers, training. Needs torch, numpy and safetensors, and nothing else."""
