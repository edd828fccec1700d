"""Many runs: a matrix of settings becomes jobs, each a process of its own and a run folder; engines carry them out."""
