"""The trained agent and its training: `agent.py` acts (numpy only), `ppo.py` learns (torch), `training.py` keeps a run's files."""
