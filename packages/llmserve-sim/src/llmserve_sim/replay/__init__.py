"""A replay of recorded traffic: the limits it runs under, what became of each request, and the figures over requests.

`rules` makes the task, `requests` collects the requests of an episode into one table, `summary` computes the figures
that are printed, `files` writes the table. Each works for the episodes of a task as well.
"""
