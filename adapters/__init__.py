"""Hardware words: what a device is, what it reported, and who may ask it. Imports nothing of ours."""
