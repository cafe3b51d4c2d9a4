"""Statistics over rows, temperatures and maps, the rule of the verdict, generated text."""
