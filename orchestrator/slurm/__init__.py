"""Slurm, as its commands show it: each is a function that makes the command and one that reads its answer."""
