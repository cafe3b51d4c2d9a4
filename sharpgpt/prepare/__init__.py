"""Documents from anywhere -> token shards on disk."""
