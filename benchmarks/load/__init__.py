"""What the server bears: its speed beside a minimal OpenEnv server's, many sessions for minutes, one session too many."""
