"""Variables for a process that measures, to be set before torch is loaded."""

QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KINETO_LOG_LEVEL": "99"}
"""A thread that waits must sleep: by default it spins, and where the neighbours' load takes a core
away its CPU time then shows that load, not the plan (on a contended machine with two cores,
products of 16 rows took five times as long). The profiler's remarks are of no use."""
