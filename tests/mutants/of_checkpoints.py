"""Mistakes in what is saved of a run, in which order, and what of it is believed."""

from tests.mutants.mutant import mutants

WRITING = [
    "tests/runs/test_checkpoint_files.py",
    "tests/runs/test_saver.py",
    "tests/runs/test_checkpoint.py::test_a_checkpoint_holds_what_the_tests_damage",
]
FOLDER = [
    "tests/runs/test_checkpoint.py",
    "tests/runs/test_checkpoint_files.py",
    "tests/runs/test_state.py",
]

CHECKPOINTS = [
    *mutants(
        "sharpgpt/runs/checkpoint_files.py",
        WRITING,
        (
            "the files are not flushed",
            "[*temporary.iterdir(), temporary, *flush_first, *folders]",
            "[temporary, *flush_first, *folders]",
        ),
        (
            "the folder of the files is not flushed",
            "[*temporary.iterdir(), temporary, *flush_first, *folders]",
            "[*temporary.iterdir(), *flush_first, *folders]",
        ),
        (
            "the records are not flushed",
            "[*temporary.iterdir(), temporary, *flush_first, *folders]",
            "[*temporary.iterdir(), temporary, *folders]",
        ),
        (
            "the folder of the records is not flushed",
            "[*temporary.iterdir(), temporary, *flush_first, *folders]",
            "[*temporary.iterdir(), temporary, *flush_first]",
        ),
        (
            "the folder of the checkpoints is not flushed",
            "        temporary.rename(checkpoint)\n        sync(checkpoint.parent)\n",
            "        temporary.rename(checkpoint)\n",
        ),
        (
            "renamed before it is flushed",
            "        for path in [*temporary.iterdir(), temporary, *flush_first, *folders]:\n"
            "            sync(path)\n"
            "        make_way(checkpoint)\n"
            "        temporary.rename(checkpoint)\n",
            "        make_way(checkpoint)\n"
            "        temporary.rename(checkpoint)\n"
            "        for path in [*checkpoint.iterdir(), checkpoint, *flush_first, *folders]:\n"
            "            sync(path)\n",
        ),
        ("the files stay private", "            path.chmod(mode)\n", "            pass\n"),
        (
            "nothing is copied",
            "by_place[place] = buffer.copy_(tensor, non_blocking=on_cuda)",
            "by_place[place] = tensor",
        ),
        (
            "views of one memory are one tensor",
            "place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)",
            "place = (tensor.data_ptr(),)",
        ),
        (
            "new buffers each time",
            "                    self._buffers[name] = buffer\n",
            "",
        ),
        (
            "the version is that of an earlier state",
            'contents.state.model_copy(update={"format_version": FORMAT_VERSION})',
            "contents.state",
        ),
        (
            "the random states are not saved",
            "return _by_name(state) | random_states(device)",
            'return _by_name(state) | {"random/cpu": torch.zeros(5056, dtype=torch.uint8)}',
        ),
        (
            "the random states are not restored",
            "        set_random_states(tensors, device)\n",
            "",
        ),
        (
            "an optimizer without state gets one",
            "[optimizer for optimizer in optimizers if optimizer.state]",
            "optimizers",
        ),
        (
            "a refused state stays",
            "        for optimizer in without_state:\n            optimizer.state.clear()\n"
            "        reason",
            "        reason",
        ),
        (
            "weights of another type",
            'get_dtype()) != "F32":',
            'get_dtype()) == "F64":',
        ),
        (
            "tensors of another type",
            "(shape, dtype) == (tuple(own[name].shape), own[name].dtype)",
            "shape == tuple(own[name].shape)",
        ),
        (
            "tensors of another shape",
            "(shape, dtype) == (tuple(own[name].shape), own[name].dtype)",
            "dtype == own[name].dtype",
        ),
        (
            "half of a state",
            '            raise ValueError(f"{name} is missing")',
            "            pass",
        ),
        (
            "the architecture of the file is taken",
            "            config=copy.deepcopy(cast(Any, causal_lm).config),\n",
            "",
        ),
    ),
    *mutants(
        "sharpgpt/runs/checkpoint.py",
        FOLDER,
        ("the oldest are kept", "present[-self.keep :]", "present[: self.keep]"),
        ("the best is pruned", "self.keep :], best, *unreadable}", "self.keep :], *unreadable}"),
        ("what cannot be read is pruned", "best, *unreadable}", "best}"),
        (
            "every kth is pruned",
            "step_of(path) % self.keep_every == 0",
            "step_of(path) % self.keep_every != 0",
        ),
        ("the worst is the best", "return min(losses, key", "return max(losses, key"),
        (
            "files of the user are pruned",
            "if foreign := _foreign(path):",
            "if (foreign := _foreign(path)) is False:",
        ),
        ("the oldest is the newest", "for path in reversed(present):", "for path in present:"),
        (
            "names are sorted and not steps",
            '(path for path in self._named(r"step_\\d{1,15}")), key=step_of)',
            'path for path in self._named(r"step_\\d{1,15}"))',
        ),
        (
            "links are checkpoints",
            "entry.is_symlink() == are_links",
            "not are_links",
        ),
        (
            "a link in a checkpoint is its own",
            "not entry.is_file(follow_symlinks=False)",
            "not entry.is_file()",
        ),
        (
            "removed under its own name",
            "    rename_within(folder, checkpoint.name, going)\n    sync(folder)\n"
            "    remove_folder(folder, going)\n",
            "    remove_folder(folder, checkpoint.name)\n",
        ),
        (
            "removed before its new name is on the disk",
            "    sync(folder)\n    remove_folder(folder, going)",
            "    remove_folder(folder, going)",
        ),
        (
            "remains of removing are not swept",
            "for prefix in (UNFINISHED, REMOVED):",
            "for prefix in (UNFINISHED,):",
        ),
        (
            "what is in the way is removed",
            "is_ours = not checkpoint.is_symlink() and _foreign(checkpoint) is None",
            "is_ours = True",
        ),
        (
            "the state of another step",
            "if state.step != manifest.step:",
            "if state.step < manifest.step:",
        ),
        (
            "one is set aside onto another",
            "        if not os.path.lexists(aside):",
            "        if number:",
        ),
        (
            "refused by the settings and renamed all the same",
            "            accept(found.state)\n",
            "",
        ),
        (
            "a manifest is amended in place",
            "        write_text(path / MANIFEST, manifest.sealed_text())",
            '        (path / MANIFEST).write_text(manifest.sealed_text(), encoding="utf-8")',
        ),
    ),
    *mutants(
        "sharpgpt/runs/manifest.py",
        ["tests/runs/test_manifest.py", "tests/runs/test_checkpoint.py"],
        (
            "contents are not compared",
            "if file_facts(checkpoint / name).sha256 != facts.sha256:",
            "if len(file_facts(checkpoint / name).sha256) != 64:",
        ),
        (
            "files that it does not name",
            "if name not in manifest.files:",
            "if name.endswith(tuple(manifest.files)):",
        ),
        ("files that are gone", "        if name not in present:", "        if not present:"),
        (
            "a manifest that was edited",
            "    if not _is_sealed(data):",
            "    if not data:",
        ),
        (
            "a newer version is called damaged",
            "        if _is_sealed(data):\n            refuse_newer",
            "        if not data:\n            refuse_newer",
        ),
    ),
    *mutants(
        "sharpgpt/runs/saver.py",
        WRITING,
        (
            "saved before it is written",
            "        path = step_folder(self.folder.path, contents.state.step)\n",
            "        path = step_folder(self.folder.path, contents.state.step)\n"
            "        self.last_saved = path\n",
        ),
        (
            "the weights go on changing",
            "weights=self._copies.of(contents.weights),",
            "weights=contents.weights,",
        ),
        (
            "the optimizer goes on changing",
            "tensors=self._copies.of(contents.tensors),",
            "tensors=contents.tensors,",
        ),
        (
            "the buffers are filled again while they are written",
            'a warning, and training continues."""\n        self.wait()\n',
            'a warning, and training continues."""\n',
        ),
        (
            "the last one is written twice",
            "        if self.has(state.step):\n            return\n",
            "",
        ),
        (
            "another step counts as this one",
            "self.last_saved is not None and step_of(self.last_saved) == step",
            "self.last_saved is not None",
        ),
        (
            "nothing is pruned",
            "        self.last_saved = path\n        self.folder.prune()\n",
            "        self.last_saved = path\n",
        ),
        ("the records may be behind", "            flush_first=self._records,\n", ""),
    ),
    *mutants(
        "sharpgpt/runs/state.py",
        ["tests/runs/test_state.py", "tests/runs/test_manifest.py"],
        (
            "a sum that is not finite",
            "RowSum(sum=total if math.isfinite(total) else None, num_rows=num_rows)",
            "RowSum(sum=total, num_rows=num_rows)",
        ),
        (
            "no sum is a sum of 0",
            "(math.nan if one.sum is None else one.sum, one.num_rows)",
            "(0.0 if one.sum is None else one.sum, one.num_rows)",
        ),
        (
            "this version is a newer one",
            "if version > FORMAT_VERSION:",
            "if version >= FORMAT_VERSION:",
        ),
        (
            "a newer state is damaged",
            "    refuse_newer(data, checkpoint, name=STATE_JSON)\n",
            "",
        ),
        (
            "a number may be a text",
            "ConfigDict(strict=True, extra=",
            "ConfigDict(strict=False, extra=",
        ),
        ("unknown fields are passed over", 'extra="forbid"', 'extra="ignore"'),
        (
            "two sums of version 1 are swapped",
            '"loss", "ce_loss", "penalty", "avg_max_prob"',
            '"loss", "penalty", "ce_loss", "avg_max_prob"',
        ),
        (
            "links are followed",
            "max_bytes=MAX_JSON_BYTES, follow_links=False)\n    refuse_newer",
            "max_bytes=MAX_JSON_BYTES)\n    refuse_newer",
        ),
    ),
]
