"""Models whose circuits are known exactly, to test methods on: written by hand, or compiled from small programs."""
