"""What every layer uses: errors, devices, files, timing, progress bars. It imports nothing of the project but itself."""
