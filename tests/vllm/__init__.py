"""vLLM's own scheduler and the simulator's reference on the same requests: `nox -s vllm`."""
