"""Tables and plots of runs and of groups of runs: mean, interval, steps to a return, seconds."""
