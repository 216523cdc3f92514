"""Load tests of the server: speed beside a minimal OpenEnv server, many sessions for minutes, one session too many."""
