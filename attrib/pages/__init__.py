"""The HTML report: every analysis of a few models on one page that needs nothing else."""
