"""Training jobs on this machine: supervisors, processes, job folders."""
