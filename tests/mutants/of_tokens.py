"""Mistakes in the tokenizer, in the pieces of a text, and in bits per byte."""

from tests.mutants.mutant import mutants

_TOKENIZER_FILE = "tests/data/test_tokenizer.py"
TOKENIZER = [
    _TOKENIZER_FILE,
    f"--deselect={_TOKENIZER_FILE}::test_huggingface_form_gives_the_same_ids_and_works_in_a_pipeline",
    f"--deselect={_TOKENIZER_FILE}::test_merges_from_the_vocabulary_are_openais",
]
HUGGINGFACE = [
    f"{_TOKENIZER_FILE}::test_merges_from_the_vocabulary_are_openais",
    f"{_TOKENIZER_FILE}::test_huggingface_form_gives_the_same_ids_and_works_in_a_pipeline",
]

TOKENS = [
    *mutants(
        "sharpgpt/data/tokenizer.py",
        TOKENIZER,
        (
            "a prompt without its special token",
            "for id_ in (self.end_of_text_id, *part))]",
            "for id_ in part)]",
        ),
        (
            "special tokens in a text",
            "encoding.encode_ordinary(piece) for piece",
            'encoding.encode(piece, allowed_special="all") for piece',
        ),
        ("65,536 tokens need uint32", "self.vocab_size <= 1 << 16", "self.vocab_size < 1 << 16"),
        (
            "uint16 for any vocabulary",
            "return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32",
            "return np.uint16",
        ),
        (
            "codes beyond the table are the last character",
            "np.full(max(codes) + 2, -1",
            "np.full(max(codes) + 1, -1",
        ),
        ("one known character is enough", "if (found < 0).any():", "if (found < 0).all():"),
        (
            "a piece begins one character late",
            "piece = text[start : start + PIECE_CHARACTERS]",
            "piece = text[start + 1 : start + 1 + PIECE_CHARACTERS]",
        ),
        (
            "V is an id",
            "if not 0 <= token < self.vocab_size:",
            "if not 0 <= token <= self.vocab_size:",
        ),
        ("negative ids", "if not 0 <= token < self.vocab_size:", "if not token < self.vocab_size:"),
        (
            "tokens are hashed without their lengths",
            'digest.update(len(token).to_bytes(4, "little") + token)',
            "digest.update(token)",
        ),
        (
            "the end of text is not hashed",
            "_fingerprint([*self._in_order, END_OF_TEXT.encode()])",
            "_fingerprint([*self._in_order])",
        ),
        (
            "the characters in the order of the text",
            "CharTokenizer(sorted(set(text)))",
            "CharTokenizer(list(dict.fromkeys(text)))",
        ),
        (
            "an altered vocabulary is taken",
            "if hashlib.sha256(data).hexdigest() == ENCODER_SHA256:",
            "if data:",
        ),
        (
            "pieces in the order in which they are done",
            "list(threads.map(encode_piece, pieces))",
            "list(threads.map(encode_piece, reversed(list(pieces))))",
        ),
        (
            "a character twice",
            "if len(set(self.characters)) < len(self.characters):",
            "if len(set(self.characters)) > len(self.characters):",
        ),
        (
            "a text of several pieces is cut",
            "        return np.concatenate([np.empty(0, np.uint16), *arrays])",
            "        return np.concatenate([np.empty(0, np.uint16), *arrays[:1]])",
        ),
    ),
    *mutants(
        "sharpgpt/data/tokenizer.py",
        HUGGINGFACE,
        (
            "the last merge first",
            "first = min(range(len(joined)), key=joined.__getitem__)",
            "first = max(range(len(joined)), key=joined.__getitem__)",
        ),
        (
            "newlines are no characters",
            r'tokenizers.Regex(r"[\s\S]")',
            r'tokenizers.Regex(r".")',
        ),
        (
            "spaces between characters",
            "        inner.decoder = tokenizers.decoders.Fuse()\n",
            "",
        ),
        (
            "a space is written as it is",
            'if chr(b).isprintable() and chr(b) != " "}',
            "if chr(b).isprintable()}",
        ),
    ),
    *mutants(
        "sharpgpt/data/pieces.py",
        ["tests/data/test_pieces.py"],
        ("cuts within words", r'r"\S(?=[ \n])"', r'r"\S(?=\S)"'),
        ("cuts within spaces", r'r"\S(?=[ \n])"', r'r".(?=[ \n])"'),
        (
            "the run with its last character",
            "end = run.end() - (run.end() < len(text))",
            "end = run.end()",
        ),
        (
            "the run at the end without its last character",
            "end = run.end() - (run.end() < len(text))",
            "end = run.end() - 1",
        ),
        ("one kind of space is forgotten", r"\x85\xa0", r"\xa0"),
        ("runs of two million", "LONG_WHITESPACE = 1 << 19", "LONG_WHITESPACE = 1 << 21"),
        (
            "what stands before a run is lost",
            "            yield text[start : run.start()]\n",
            "",
        ),
    ),
    *mutants(
        "sharpgpt/evaluation/token_bytes.py",
        ["tests/evaluation/test_token_bytes.py", "tests/evaluation/test_bits_per_byte.py"],
        (
            "added tokens are in GPT-2's letters",
            "        elif id_ in added:\n            found[id_] = token.encode()\n",
            "",
        ),
        (
            "the letters of bytes are text",
            "bytes(byte_of_letter[letter] for letter in token)",
            "token.encode()",
        ),
        ("marks are letters", 'token.replace("▁", " ") if is_marked else token', "token"),
        (
            "names of bytes are text",
            "found[id_] = bytes.fromhex(byte[1])",
            "found[id_] = byte[0].encode()",
        ),
    ),
    *mutants(
        "sharpgpt/evaluation/bits_per_byte.py",
        ["tests/evaluation/test_bits_per_byte.py"],
        (
            "the end of text has bytes",
            "        lengths[tokenizer.end_of_text_id] = 0\n",
            "        pass\n",
        ),
        (
            "the first token counts and not the last",
            "blocks[first:end][:, 1:].numpy()",
            "blocks[first:end][:, :-1].numpy()",
        ),
        (
            "every token counts",
            "blocks[first:end][:, 1:].numpy()",
            "blocks[first:end].numpy()",
        ),
        ("nats and not bits", "ce_sums_G[None] / math.log(2)", "ce_sums_G[None]"),
        (
            "characters and not bytes",
            "[len(found[id_]) for",
            '[len(found[id_].decode(errors="replace")) for',
        ),
        (
            "the blocks of a group are one late",
            "np.arange(groups.num_groups + 1)).tolist()",
            'np.arange(groups.num_groups + 1), "right").tolist()',
        ),
    ),
]
