"""Training: the step, its schedule, memory, and the run around it."""
