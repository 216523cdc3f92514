"""Measures Vidur's simulated requests per second on one trace, in an environment of its own with vidur==0.0.26.

Vidur predicts iteration times from kernel profiles that it downloads. Because they are not always available, a
constant replaces the whole prediction. This favours Vidur, which then spends time on scheduling only. Its metrics,
plots and traces are off, and the time to build its cluster and to read the trace is not counted, which favours it
too.

Prints one JSON object: requests, simulated seconds, seconds taken, requests per second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vidur._native.entities import ExecutionTime
from vidur.config import config as configs
from vidur.execution_time_predictor import BaseExecutionTimePredictor, ExecutionTimePredictorRegistry
from vidur.logger import _root_logger
from vidur.simulator import Simulator
from vidur.types import ExecutionTimePredictorType

LAYERS = 32  # Llama-3-8B


def constant_predictor(iteration_ms: float) -> type[Any]:
    """Return a predictor that gives every iteration `iteration_ms`, computed once."""
    parts = [0.0] * 14
    parts[4] = iteration_ms / LAYERS
    answer = ExecutionTime(LAYERS, *parts)

    class ConstantPredictor(BaseExecutionTimePredictor):  # type: ignore[misc] # untyped
        def get_execution_time(self, batch: object, pipeline_stage: int) -> ExecutionTime:
            return answer

    # Vidur's kernel-by-kernel hooks are abstract; nothing calls them once the whole is answered.
    ConstantPredictor.__abstractmethods__ = frozenset()
    return ConstantPredictor


def configuration(arguments: argparse.Namespace, output: str) -> configs.SimulationConfig:
    """Return a fleet like ours: Llama-3-8B on A100, chunked prefill, least outstanding requests first."""
    return configs.SimulationConfig(
        cluster_config=configs.ClusterConfig(
            num_replicas=arguments.replicas,
            replica_config=configs.ReplicaConfig(
                num_pipeline_stages=1, tensor_parallel_size=1, device="a100", network_device="a100_dgx"
            ),
            cache_config=configs.CacheConfig(num_blocks=arguments.blocks),
            global_scheduler_config=configs.LORGlobalSchedulerConfig(),
            replica_scheduler_config=configs.SarathiSchedulerConfig(
                batch_size_cap=arguments.batch_cap, chunk_size=arguments.token_budget
            ),
        ),
        request_generator_config=configs.TraceRequestGeneratorConfig(
            trace_file=str(arguments.trace), date="all", prefill_scale_factor=1, time_scale_factor=1, max_tokens=16384
        ),
        metrics_config=configs.MetricsConfig(
            write_metrics=False,
            enable_chrome_trace=False,
            store_plots=False,
            store_request_metrics=False,
            store_batch_metrics=False,
            store_utilization_metrics=False,
            output_dir=output,
        ),
    )


def main() -> int:
    """Simulate the trace once and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "trace", type=Path, help="CSV: Date (the word all), Time, PromptTokenCount, CompletionTokenCount"
    )
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--batch-cap", type=int, default=256)
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=20_000, help="KV blocks per replica")
    parser.add_argument("--iteration-ms", type=float, default=15.0, help="what every iteration takes")
    arguments = parser.parse_args()
    _root_logger.setLevel("ERROR")
    key = ExecutionTimePredictorType.RANDOM_FORREST
    ExecutionTimePredictorRegistry.unregister(key)
    ExecutionTimePredictorRegistry.register(key, constant_predictor(arguments.iteration_ms))
    with tempfile.TemporaryDirectory() as output:
        simulator = Simulator(configuration(arguments, output))
        requests = len(simulator._event_queue)  # noqa: SLF001 - Vidur has no public count
        start = time.process_time()
        simulator.run()
        seconds = time.process_time() - start
    print(
        json.dumps(
            {
                "requests": requests,
                "simulated_s": simulator._time,  # noqa: SLF001 - as above
                "seconds": seconds,
                "requests_per_s": requests / seconds,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
