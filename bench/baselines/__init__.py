"""yolov9k beside its peers: each subject in a process of its own, measured by one loop. README.md says how to run it."""
