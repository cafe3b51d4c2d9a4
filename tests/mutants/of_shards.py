"""Mistakes in the writing and reading of shards, and in the commits of a preparation."""

from tests.mutants.mutant import mutants

_WRITER_FILE = "tests/data/test_shard_writer.py"
WRITING = [_WRITER_FILE, "tests/data/prepare/test_preparation.py"]
COMMITS = ["tests/data/prepare/test_preparation.py"]
_SHARDS_FILE = "tests/data/test_shards.py"
READING = [
    _SHARDS_FILE,
    "tests/data/test_prepared.py",
    f"--deselect={_SHARDS_FILE}::test_ten_billion_tokens_in_one_file",
]

SHARDS = [
    *mutants(
        "sharpgpt/data/shard_writer.py",
        WRITING,
        (
            "a commit is not flushed to the disk",
            "            self._file.flush()\n"
            "            os.fsync(self._file.fileno())\n"
            "        return",
            "            self._file.flush()\n        return",
        ),
        (
            "a commit is not flushed to the system",
            "            self._file.flush()\n"
            "            os.fsync(self._file.fileno())\n"
            "        return",
            "            os.fsync(self._file.fileno())\n        return",
        ),
        (
            "a shard is not flushed",
            "        self._file.flush()\n"
            "        os.fsync(self._file.fileno())\n"
            "        self._file.close()",
            "        self._file.close()",
        ),
        (
            "the folder of a shard is not flushed",
            "        os.replace(partial, final)\n        sync(self.folder)\n",
            "        os.replace(partial, final)\n",
        ),
        (
            "the folder of a new file is not flushed",
            "        self._file.write(bytes(self._header_bytes()))\n        sync(self.folder)\n",
            "        self._file.write(bytes(self._header_bytes()))\n",
        ),
        (
            "the end of a torn write stays",
            "            os.truncate(partial, size)\n",
            "            pass\n",
        ),
        (
            "written from the beginning again",
            "            self._file.seek(size)\n",
            "",
        ),
        (
            "the first of the later files is removed first",
            "range(number - 1, len(self.entries), -1)",
            "range(len(self.entries) + 1, number)",
        ),
        (
            "a shard that was finished later stays",
            "            os.replace(final, partial)\n",
            "            final.unlink()\n",
        ),
        (
            "a shard of another length is taken",
            "self._num_bytes(entry.num_tokens), exactly=True)",
            "self._num_bytes(entry.num_tokens))",
        ),
        (
            "a partial shard may be full",
            "if not 0 <= num_tokens < self.shard_tokens:",
            "if not 0 <= num_tokens <= self.shard_tokens:",
        ),
        (
            "the header is at the end",
            "            self._file.seek(0)\n",
            "",
        ),
        (
            "the next shard counts on",
            "        self.entries.append(entry)\n        self._num_tokens = 0\n",
            "        self.entries.append(entry)\n",
        ),
        (
            "ids are cut to 16 bits",
            "if least < 0 or largest > np.iinfo(self._dtype).max:",
            "if least < 0:",
        ),
        (
            "big-endian",
            'self._dtype = np.dtype(self.dtype).newbyteorder("<")',
            'self._dtype = np.dtype(self.dtype).newbyteorder(">")',
        ),
        (
            "a link is a partial shard",
            "path.is_file() and not path.is_symlink() else -1",
            "path.is_file() else -1",
        ),
    ),
    *mutants(
        "sharpgpt/data/shards.py",
        READING,
        (
            "a shard begins one token late",
            "self._firsts = [0, *ends[:-1]]",
            "self._firsts = [0, *(end + 1 for end in ends[:-1])]",
        ),
        (
            "V is an id",
            "if rows.size and int(rows.max()) >= self.vocab_size:",
            "if rows.size and int(rows.max()) > self.vocab_size:",
        ),
        (
            "a block may end one token late",
            "starts.max() <= len(self) - length:",
            "starts.max() <= len(self) - length + 1:",
        ),
        (
            "the next shard is read from the same place",
            "done + len(part), number + 1, 0",
            "done + len(part), number + 1, first",
        ),
        (
            "the header is read as tokens",
            "offset = shard.offset_bytes + first * self.dtype.itemsize",
            "offset = first * self.dtype.itemsize",
        ),
        (
            "a short read is the end",
            "while 0 < done < array.nbytes:",
            "while 0 < done < 0:",
        ),
        (
            "a short read goes on at its beginning",
            "self._read(array.view(np.uint8)[done:], offset + done)",
            "self._read(array.view(np.uint8)[done:], offset)",
        ),
        ("a longer file is taken", "    if found != expected:", "    if found < expected:"),
        (
            "a truncated shard is zeros",
            "        if num_bytes < part.nbytes:",
            "        if num_bytes < 0:",
        ),
        (
            "the token is named from the beginning of the split",
            "position = place - self._firsts[number]",
            "position = place",
        ),
        (
            "the header has another version",
            "header[:3] = MAGIC, 1, num_tokens",
            "header[:3] = MAGIC, 2, num_tokens",
        ),
        (
            "every file stays open",
            "functools.lru_cache(MAX_OPEN_FILES)(",
            "functools.lru_cache(None)(",
        ),
    ),
    *mutants(
        "sharpgpt/data/prepare/preparation.py",
        COMMITS,
        (
            "the journal before the shards",
            "        self._journal.writers = "
            "{split: w.commit() for split, w in self._writers.items()}\n"
            "        self._journal.position = self._position\n"
            "        self._journal.write(self._folder)\n",
            "        self._journal.position = self._position\n"
            "        self._journal.write(self._folder)\n"
            "        self._journal.writers = "
            "{split: w.commit() for split, w in self._writers.items()}\n",
        ),
        (
            "the journal goes before the manifest is there",
            "        write_manifest(self._folder, manifest)\n"
            "        own_files.remove_journal(self._folder)\n",
            "        own_files.remove_journal(self._folder)\n"
            "        write_manifest(self._folder, manifest)\n",
        ),
        (
            "documents of both splits in one",
            "split = SPLITS[is_validation]",
            "split = SPLITS[0]",
        ),
    ),
]
