"""The data path: one module a stage, plain functions, no Prefect."""
