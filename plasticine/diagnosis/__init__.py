"""What is wrong with a run: signatures of known failures, read off its curves."""
