"""What OpenEnv's server is given: the environment, its rubric, its tasks, and a server without a count of its own."""
