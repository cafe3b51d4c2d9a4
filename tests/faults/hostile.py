"""What strangers, slips and broken disks put into files and command lines: strategies.

`CANARY` in a text stands for a path outside the sandbox; whoever runs the code in the text, writes
there. The bombs are small files that a careless reader expands to gigabytes or hours.
"""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sharpgpt.config import TrainingConfig
from sharpgpt.config.options import annotations, choices

CANARY = "CANARY"

RAW_SCALARS = [
    "", " ", "null", "~", "None", "nan", ".nan", ".inf", "-.inf", "1e999", "1e-999", "-0", "0x10",
    "0b1", "0o17", "017", "1_000", "1__0", "5:30", "9" * 400, "-" + "9" * 400, "9" * 5000, "1e5",
    "1e308", "1e-308", "1.5", "true", "yes", "on", "TRUE", "[]", "{}", "[1, 2", "{a: b",
    "[" * 2000, "{a: " * 500, "&a [*a]", "*a", "&a", "!!python/name:os.system",
    "!!python/module:antigravity", f'!!python/object/apply:os.system ["touch {CANARY}"]',
    f"!!python/object/new:os.mkdir [{CANARY}]", "!!binary AAAA", "!!binary é", "!!set {a}",
    "!!omap [a: 1]", "!!pairs [a: 1]", "!!str", "!x y", "!!timestamp 2001-99-99", "2026-13-01",
    "2026-01-01", "2026-01-01T99:99:99Z", "!!int abc", "!!int 0x", "!!float x", "!!bool maybe",
    "!!null x", "? a", "- a", "a: b", "# x", "'", '"', '"\\ud800"', '"\\x00"', '"\\e[2J"',
    '"\\u202e"', "@", "`", "|", ">", "../../up", "..", ".", "a/../b", "~", "~nosuchuser",
    "~nosuchuser/x", "\x1b[2J", "\u202eabc", "a b", "con", "a" * 300, "a/" * 3000, "%YAML 1.1",
    "--- a", "...", "<<: *a", "=", "0:N-2", "N/2:N-2", "N/0:N", "N:N", "1:2:3", ":", "-:-",
    "no_such_module:thing", "a:b:c", "os:no_such_thing", "cuda:99", "cuda:99999999999999999999",
    "char", "gpt2", "auto", "999999999999", "-1", "0", "1", "2", "16", "0.5", "\ufeff1",
    "\u0661", "½",
]  # fmt: skip


def laughs(levels: int, width: int) -> str:
    """width ** levels words, written as lists of lists by reference."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]"
        for level in range(1, levels)
    ]
    return "\n".join([*lines, f"batch_size: *a{levels - 1}"]) + "\n"


def merges(levels: int) -> str:
    """A mapping with 2 ** levels entries, all of the same name, merged from one level below."""
    lines = ["m0: &m0 {seed: 1}"]
    lines += [f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


HOSTILE_YAML = [
    laughs(9, 9), laughs(40, 2), merges(40), "seed: " + "[" * 100_000, "seed: " + "{a: " * 20_000,
    "- " * 20_000, "? " * 5_000, "a: " * 3_000, "&a [*a]", "&a {b: *a}", "&a {*a : 1}",
    "seed: &a [*a]", "---\nseed: 1\n---\nseed: 2\n", "%YAML 9.9\n---\nseed: 1\n",
    "%TAG ! tag:x,2000:\n---\nseed: !y 1", "seed: 1\nseed: 1\n", "seed: 1\n seed: 2\n",
    "\tseed: 1", "seed: |\n  1\n", "[seed, 1]", "seed", "1", "? [seed]\n: 1", "? {a: b}\n: 1",
    "null: 1", "1: 1", "true: 1", "2026-01-01: 1", "!!binary YQ==: 1", "\ufeffseed: 1",
    "seed: 1\x00", "seed: 1\r", "\x85seed: 1", "\u2028", "\x1b[2Jseed: 1", "'\x07': 1",
    '"\\e[2J": 1', '"\\ud800": 1', '"a\\nb": 1', "seed: *nowhere", "&", "*", "<<: 1", "<<: [1]",
    "<<: {seed: 1}", "seed: !!bool 1", "seed: !!bool", "seed: !!int ''", "seed: !!float ''",
    "seed: !!timestamp 1", "seed: !!binary a", "seed: !!null {}", "!!bool x: 1",
    f"!!python/object/apply:os.system [touch {CANARY}]",
    f'a: !!python/object/apply:eval ["open({CANARY!r}, 1)"]',
]  # fmt: skip

text = st.text(
    st.characters(codec=None, exclude_categories=(), exclude_characters="\x00"), max_size=40
)
"""Any text that a command line can hold; lone surrogates stand for bytes that are no UTF-8."""

plain_values: SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(),
        st.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 1e308, 5e-324]),
        st.sampled_from(["", "\x1b[2J", "\x00", "../x"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)  # fmt: skip

setting_names = st.sampled_from(list(annotations(TrainingConfig)))
names = st.one_of(
    setting_names,
    setting_names,
    setting_names.flatmap(
        lambda name: st.sampled_from([name[1:], name.upper(), f"{name}s", f"no_{name}"])
    ),
    st.sampled_from(["config", "dry_run", "no_wandb", "help", "__class__", "self", "", "-", "a b"]),
    text,
)  # fmt: skip
DEFAULTS = TrainingConfig().to_dict()


def sound_value(name: str) -> SearchStrategy[Any]:
    """Values of the right kind for a setting, small and near the edges of what is allowed."""
    hint = annotations(TrainingConfig)[name]
    return st.sampled_from(
        [DEFAULTS[name], *choices(hint), *_NEAR.get(name, [0, 1, 2, 3, 16, 0.5])]
    )


_NEAR: dict[str, list[Any]] = {
    "betas": [[0.9, 0.99], [0, 0], [1, 1], [0.9], 0.9],
    "penalty_positions": ["0:0", "N/2:N-2", "0:N-1", "3:2", " 0 : N - 2 "],
    "penalty_type": ["docs.examples.tsallis:GINI", "no_such_module:x", "os:no_such_thing"],
    "run_name": ["a", "..", ".", "a/b", "/tmp", "a" * 200, "a" * 201, "é", "-a", "a.b+c=d"],
    "resume": ["auto", "nowhere", ".", "..", ""],
    "device": ["cpu", "cuda:7", "mps", "tpu"],
    "top_k": [1, 2, 50, 10**6],
    "n_head": [1, 2, 3, 7, 0],
    "n_embd": [2, 6, 16, 21, 2**40],
    "n_layer": [1, 2, 0],
    "max_seq_length": [2, 3, 16, 64, 1024, 1025, 10**12],
    "learning_rate": [1e-3, 0, -1, 1e300],
    "num_epochs": [1e-300, 0.001, 3, 1e300],
    "max_steps": [1, 10**30, 10**400],
    "batch_size": [1, 7, 10**30, 10**400],
    "gradient_accumulation_steps": [1, 10**400],
    "output_dir": ["o", "~nosuchuser/o", "a/../b"],
    "checkpoint_dir": ["c", "~nosuchuser/c"],
    "cache_dir": ["c", "~nosuchuser/c"],
    "generate_prompt": ["a", "\n", "@", "\x1b", "é", "a" * 2000],
    "eval_max_blocks": [1, 10**30],
    "seed": [0, 2**32 - 1, 2**32],
}


def mutated(originals: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    """Bytes with up to four changes: cut, doubled, overwritten or put in somewhere."""

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        data = draw(originals)
        for _ in range(draw(st.integers(1, 4))):
            first = draw(st.integers(0, len(data)))
            last = min(len(data), first + draw(st.sampled_from([0, 1, 2, 8, 64, 10**9])))
            piece = draw(
                st.sampled_from(
                    [b"", b"", data[first:last] * 2, b"\x00", b"\n", b"\xff", b"9" * 30]
                )
                | st.binary(max_size=8)
            )
            data = data[:first] + piece + data[last:]
        return data

    return change()
