"""The trained agent and its training.

::

    agent.py, checkpoint.py, network.py, features.py    acting: numpy only
    config.py                                           the hyper-parameters
    rollout.py                                          episodes to learn from, played in numpy
    ppo.py, actor_critic.py, normalization.py           one update: losses, network, running statistics (torch)
    trainer.py                                          a run of updates, which can be saved and resumed
    training.py, curves.py                              a run with its files
    imitation.py                                        another agent's actions, to begin from
"""
