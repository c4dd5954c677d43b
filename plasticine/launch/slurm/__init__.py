"""Runs as jobs of a SLURM cluster: what is submitted, what a job does, what the submitter sees of it."""
