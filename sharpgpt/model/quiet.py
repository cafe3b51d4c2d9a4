"""Silence for transformers: its advice is for whoever writes a call to it, not for our user."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block transformers logs errors only, and no Python warning is shown.

    What a user must know is an error or a note of ours. For the main thread: the state is global.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
