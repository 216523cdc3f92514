"""The commands and addresses of this environment's specification, which is not in the repository.

Its Python example is the one that README.md and the client's readme repeat, and is run there.
"""

from __future__ import annotations

from typing import Final

from tests.examples.pages import Example

__all__ = ["SPECIFICATION"]

_SHELL: Final = """\
uv sync --frozen
pip install openenv

uvicorn server.app:app --host 0.0.0.0 --port 7860

LLMSERVE_MODE=sim uvicorn server.app:app --host 0.0.0.0 --port 7860

export OPENAI_API_KEY=your_key_here
LLMSERVE_MODE=real LLMSERVE_REAL_PROVIDER=openai LLMSERVE_REAL_MODEL=gpt-4.1-mini uvicorn server.app:app --host 0.0.0.0 --port 7860

openenv validate

pytest -q

python train.py --task adversarial_multitenant --steps 120000 --seed 0
python evaluate.py --agent ppo --task all --episodes 20

docker build -t llmserve-env .
docker run --rm -p 7860:7860 llmserve-env

docker build --no-cache -t llmserve-env .

python -m server.baseline_inference --mode deterministic

export OPENAI_API_KEY=your_key_here
python -m server.baseline_inference --mode openai --runtime in-process --model gpt-4.1-mini

python -m server.baseline_inference --mode openai --runtime http --base-url http://localhost:7860 --model gpt-4.1-mini

python -m server.baseline_inference --mode openai --runtime in-process --model gpt-4.1-mini --output artifacts/baseline_openai.json

pytest -q
openenv validate
docker build -t llmserve-env .

python scripts/pre_submission_check.py --skip-docker

python scripts/pre_submission_check.py --space-url https://your-space-name.hf.space

export OPENAI_API_KEY=your_key_here
python scripts/pre_submission_check.py --run-openai-baseline --baseline-runtime in-process --model gpt-4.1-mini
"""

_HTTP: Final = """\
GET /health
POST /reset
POST /step
GET /state
GET /metadata
GET /schema
GET /tasks
POST /grader
GET /baseline
GET /baseline?use_openai=true
GET /web
GET /demo
"""

SPECIFICATION: Final = [
    *(Example("specification", number, "bash", text) for number, text in enumerate(_SHELL.split("\n\n"), 1)),
    Example("specification", 0, "http", _HTTP),
]
"""As examples: the line is the place in the list, and a key that was exported stays so."""
