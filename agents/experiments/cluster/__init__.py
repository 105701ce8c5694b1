"""Run the runs of an experiment on a Ray cluster, whose nodes share no disk with each other."""
