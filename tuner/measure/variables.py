"""Variables for a process that measures, to be set before torch is loaded."""

QUIET = {"KINETO_LOG_LEVEL": "99"}
"""The profiler's remarks are of no use. How threads wait is left as it is where plans will serve:
threads that sleep between ops take so long to wake that many small ops look several times slower
than they are."""

KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""The GNU C library's allocator then gives nothing back to the system. Read when a process starts.
By default it takes what is above 32 MiB, and what it trimmed, from the system anew in every call;
what the page faults cost depends on all that the process did before."""
