"""Commands of the documentation that tests/docs does not run: why, and which test does. What no page says may not stay."""

from __future__ import annotations

VENV = "builds or uses the environment that the tests run in"
HOURS = "takes hours, or shows what hours gave: tests/evidence"
HUB = "needs a hub: tests/evidence/test_arms.py holds the configuration to the other one"
SERVER = "needs a Prefect server: tests/flows/test_prefect_end_to_end.py"
CLUSTER = "needs machines: tests/pipeline/test_compute_address.py starts both on one"
PACKAGE = "installs a package: tests/test_example_selector.py"
OBJECTS = "needs object storage: tests/pipeline/test_remote.py"

PLAYS = "needs something that plays: tests/test_inspect.py runs it with a stand-in"

ELSEWHERE = {
    "make demo": VENV,
    "make test": VENV,
    "make reproduce": HOURS,
    "python -m evidence --list": HOURS,
    "python -m evidence selection": HOURS,
    "python -m evidence report": HOURS,
    "python -m evidence --config evidence/larger.yaml --folder runs/evidence-larger": HUB,
    "prefect server start": SERVER,
    "export PREFECT_API_URL=http://127.0.0.1:4200/api": SERVER,
    "salad serve": SERVER,
    "prefect deployment run salad-round": SERVER,
    "prefect deployment run salad-round --param config=configs/demo.yaml --param round=1 --watch": SERVER,
    "prefect deployment run salad-round --param selector=longest.py:Longest --param name=longest": SERVER,
    "prefect work-pool create salad --type process": SERVER,
    "prefect deploy --all": SERVER,
    "prefect worker start --pool salad": SERVER,
    "dask scheduler --host 10.0.0.5": CLUSTER,
    "dask worker tcp://10.0.0.5:8786 --nworkers 16 --nthreads 1": CLUSTER,
    'CUDA_VISIBLE_DEVICES=0 dask worker tcp://10.0.0.5:8786 --nthreads 1 --resources "GPU=1 memory=80e9"': "needs a GPU",
    "ray start --head --port 6379": CLUSTER,
    "ray start --address 10.0.0.5:6379": CLUSTER,
    "pip install examples/custom_selector": PACKAGE,
    "salad run configs/demo.yaml --name novel --selector novel": PACKAGE,
    "prefect deployment run salad-round --param selector=novel --param name=novel": PACKAGE,
    "pytest examples/custom_selector": PACKAGE,
    "salad status s3://bucket/runs/demo": OBJECTS,
    "salad inspect s3://bucket/runs/demo/round-000/speech": OBJECTS,
    "salad inspect s3://bucket/runs/demo/round-000": OBJECTS,
    "salad compare s3://bucket/runs/demo runs/demo --out elsewhere": "as above: tests/pipeline/test_comparison.py",
    "salad inspect runs/demo --play 7c7d9d54b077": PLAYS,
    "salad eval": "names the command, which wants a run or --list: both are run",
    "salad voices": "loads every engine that is here: tests/test_cli.py",
    "salad voices kokoro": "needs `make voices`: tests/tts/test_kokoro.py",
    "salad voices coqui --model …": "fetches a model: tests/tts/test_coqui.py",
}
