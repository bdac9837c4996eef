"""What a run is asked for: the training recipe, the options of each command, presets."""
