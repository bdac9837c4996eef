"""yolov9k beside its baselines: each subject in a process of its own, measured by one loop. README.md says how to run it."""
