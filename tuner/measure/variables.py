"""Variables for a process that measures, to be set before torch is loaded."""

QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KINETO_LOG_LEVEL": "99"}
"""A thread that waits must sleep: by default it spins, and where the neighbours' load takes a core
away its CPU time then shows that load, not the plan (on a contended machine with two cores,
products of 16 rows took five times as long). The profiler's remarks are of no use."""

KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""The GNU C library's allocator then gives nothing back to the system. Read when a process starts.
By default it takes what is above 32 MiB, and what it trimmed, from the system anew in every call;
what the page faults cost depends on all that the process did before."""
