"""The trace files that people have.

`published`, `simulators` and `benchmarks` hold the formats, `detection` says which one a file is of, and `source` turns
its bytes into rows. `workload/rows.py` turns a row into requests.
"""
