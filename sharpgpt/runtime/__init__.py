"""The machine around a run: device, processes, signals, locks, console, environment."""
