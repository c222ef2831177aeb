"""Prefect at the edge: flows and tasks that pass strings to the pipeline, and nothing of the method."""
