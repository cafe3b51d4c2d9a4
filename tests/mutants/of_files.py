"""Mistakes in the atomic writing of files and in the lock."""

from tests.mutants.mutant import mutants

FILES = [
    *mutants(
        "sharpgpt/core/files.py",
        ["tests/core/test_files.py", "tests/core/test_jsonio.py"],
        (
            "the file is not flushed",
            "                make_readable(temporary)\n                os.fsync(file.fileno())\n",
            "                make_readable(temporary)\n",
        ),
        ("its folder is not flushed", "            sync(path.parent)\n    finally", "    finally"),
        (
            "the folder is flushed before the renaming",
            "            os.replace(temporary, path)\n            sync(path.parent)\n",
            "            sync(path.parent)\n            os.replace(temporary, path)\n",
        ),
        (
            "the temporary file stays",
            "    finally:\n        temporary.unlink(missing_ok=True)\n",
            "    finally:\n        pass\n",
        ),
        (
            "the file stays private",
            "                make_readable(temporary)\n",
            "",
        ),
        ("the umask is forgotten", " else 0o666) & ~umask)", " else 0o666))"),
        (
            "what was left stands in the way",
            "        temporary.unlink(missing_ok=True)\n        descriptor",
            "        descriptor",
        ),
        ("new folders are not flushed", "        sync(folder.parent)\n", "        pass\n"),
        (
            "the new folder and not the one that holds it",
            "        sync(folder.parent)\n",
            "        sync(folder)\n",
        ),
        (
            "a failed flush is passed over",
            "if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):",
            "if error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):",
        ),
        (
            "a missing file cannot be flushed",
            "in (errno.ENOENT, errno.EACCES, errno.EISDIR)",
            "in (errno.EACCES, errno.EISDIR)",
        ),
        (
            "nothing is flushed",
            "        os.fsync(descriptor)\n",
            "        pass\n",
        ),
        (
            "links are followed",
            "flags if follow_links else flags | NO_FOLLOW",
            "flags",
        ),
        (
            "a pipe is a file",
            "if not stat.S_ISREG(os.fstat(descriptor).st_mode):",
            "if stat.S_ISDIR(os.fstat(descriptor).st_mode):",
        ),
        (
            "remains are not known by their names",
            r'rf"\.{re.escape(name)}\.[a-z0-9_]{{8}}\.tmp"',
            r'rf"\.{re.escape(name)}\.[a-z0-9_]{{6}}\.tmp"',
        ),
    ),
    *mutants(
        "sharpgpt/core/files.py",
        ["tests/runs/test_checkpoint.py", "tests/runs/test_folder.py"],
        (
            "a folder is reached through a link",
            "os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW)",
            "os.O_RDONLY | os.O_DIRECTORY)",
        ),
    ),
    *mutants(
        "sharpgpt/runtime/lock.py",
        ["tests/runtime/test_lock.py"],
        (
            "the file of a successor is removed",
            "if self._file and os.path.samestat(self._file, self.path.lstat()):",
            "if True:",
        ),
        (
            "the file is removed when the lock is free",
            "                        self.path.unlink()\n"
            "            finally:  # an interruption here must not leave the lock held\n"
            "                self._lock.release()\n",
            "                        self._lock.release()\n"
            "                        self.path.unlink()\n"
            "            finally:  # an interruption here must not leave the lock held\n"
            "                self._lock.release()\n",
        ),
        (
            "the file stays",
            "                        self.path.unlink()",
            "                        pass",
        ),
        (
            "it is still called its own",
            "                self._held.discard(self._key())\n",
            "",
        ),
        ("it is never its own", "        self._held.add(self._key())\n", ""),
        (
            "a forked process has the locks of its parent",
            "return os.getpid(), os.path.realpath(self.path)",
            "return 0, os.path.realpath(self.path)",
        ),
        (
            "the end of an earlier holder stays",
            "    os.ftruncate(descriptor, 0)\n",
            "",
        ),
        (
            "a file system without locks has them",
            "            if error.errno in _NO_FLOCK:\n                return False",
            "            if error.errno in _NO_FLOCK:\n                return True",
        ),
        (
            "a full disk has no locks",
            "            if error.errno in _NO_FLOCK:\n"
            "                return False\n"
            "            raise",
            "            return False",
        ),
        (
            "a holder may write to the terminal",
            "return one_line(who)",
            "return who",
        ),
    ),
]
