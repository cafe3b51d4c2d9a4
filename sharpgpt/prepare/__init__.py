"""Former place of `sharpgpt.data.prepare`."""
