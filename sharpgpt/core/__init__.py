"""What every layer needs: the user error, atomic files, JSON, the registry of metrics."""
