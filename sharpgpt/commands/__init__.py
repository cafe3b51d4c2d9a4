"""The commands of `sharpgpt`, one file each."""
