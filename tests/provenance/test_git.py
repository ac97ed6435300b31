"""What is told of a git repository, with git itself; and what it must not do meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from caliban.model.provenance import Repository
from caliban.provenance import git


def call(folder: Path, *words: str) -> str:
    """Runs git as somebody with a name."""
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "commit.gpgsign=false")
    file = ("-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *who, *file, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a commit and nothing changed since."""
    folder = tmp_path / "project"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "train.py").write_text("rate = 1\n")
    (folder / ".gitignore").write_text("*.log\n")
    call(folder, "init", "-q")
    call(folder, "add", ".")
    call(folder, "commit", "-q", "-m", "first")
    return folder


def look(folder: Path) -> Repository:
    found, why = git.look(folder)
    assert found is not None, why
    return found


def applied(repository: Path, found: Repository, clone: Path) -> None:
    """Makes a clone of what was committed, and applies the recorded diff to it."""
    call(clone.parent, "clone", "-q", str(repository), clone.name)
    call(clone, "checkout", "-q", found.commit)
    diff = found.diff.encode(errors="surrogateescape")
    subprocess.run(["git", "apply"], cwd=clone, input=diff, check=True)


@pytest.mark.parametrize(
    "account", ["me:hunter2@", "hunter2@", "me:hunter2@home@", "me:hunter2/x@", "me:1234@", ""]
)
@pytest.mark.parametrize("query", ["", "?private_token=hunter2"])
def test_a_commit_is_told_with_its_branch_and_where_it_came_from(
    repository: Path, account: str, query: str
) -> None:
    url = f"https://{account}example.com/me/p.git{query}"
    call(repository, "remote", "add", "origin", url)
    assert look(repository) == Repository(
        commit=call(repository, "rev-parse", "HEAD"),
        branch="main",
        remote="https://example.com/me/p.git",
    )


def test_the_diff_and_the_commit_give_back_what_ran(repository: Path, tmp_path: Path) -> None:
    (repository / "trainer" / "train.py").write_bytes(b"rate = 2\nname = '\xff\x0c'\n")
    (repository / "trainer" / "new file.py").write_text("print()\n")
    (repository / ".gitignore").unlink()
    found = look(repository)
    assert found.changed == {
        ".gitignore": ".D",
        "trainer/new file.py": "??",
        "trainer/train.py": ".M",
    }
    assert found.note == ""
    applied(repository, found, tmp_path / "again")
    for name in ("train.py", "new file.py"):
        there = tmp_path / "again" / "trainer" / name
        assert there.read_bytes() == (repository / "trainer" / name).read_bytes()
    assert not (tmp_path / "again" / ".gitignore").exists()


def test_files_with_odd_names_are_in_the_diff_and_not_missed(
    repository: Path, tmp_path: Path
) -> None:
    names = ('a "b" c', "tab\tand\nline", "back\\slash", "caf\u00e9", "bell\a\x01", " b", "x b/y")
    for name in names:
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("1\n")
    found = look(repository)
    assert {*found.changed} == {*names}
    assert found.note == ""
    applied(repository, found, tmp_path / "again")
    for name in names:
        assert (tmp_path / "again" / name).read_text() == "1\n"


def test_of_a_project_within_a_repository_only_its_own_changes_are_told(repository: Path) -> None:
    (repository / "trainer" / "train.py").write_text("rate = 2\n")
    (repository / "other.py").write_text("new\n")
    found = look(repository / "trainer")
    assert found.folder == "trainer"
    assert found.changed == {"trainer/train.py": ".M"}
    assert "other.py" not in found.diff


def test_changes_that_were_staged_are_told_too(repository: Path) -> None:
    (repository / "trainer" / "train.py").write_text("rate = 2\n")
    call(repository, "add", ".")
    assert "+rate = 2" in look(repository).diff


def test_submodules_are_told_with_their_commits_and_changes(
    repository: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    call(inner, "init", "-q")
    (inner / "lib.py").write_text("a = 1\n")
    call(inner, "add", ".")
    call(inner, "commit", "-q", "-m", "inner")
    call(repository, "submodule", "add", "-q", str(inner), "libs/inner")
    call(repository, "commit", "-q", "-m", "with a submodule")
    (repository / "libs" / "inner" / "lib.py").write_text("a = 2\n")
    found = look(repository)
    assert found.submodules == {"libs/inner": call(inner, "rev-parse", "HEAD")}
    assert found.changed == {"libs/inner/lib.py": ".M"}
    assert "--- a/libs/inner/lib.py\n+++ b/libs/inner/lib.py\n" in found.diff


def test_where_there_is_no_repository_that_is_what_is_told(tmp_path: Path) -> None:
    assert git.look(tmp_path) == (None, "it lies in no git repository")


def test_without_git_that_is_what_is_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert git.look(repository) == (None, "git is not installed")


def test_a_bare_repository_is_none_that_a_project_lies_in(tmp_path: Path) -> None:
    call(tmp_path, "init", "-q", "--bare")
    assert git.look(tmp_path) == (None, "it lies in no working tree of git")


def test_before_the_first_commit_nothing_is_to_be_compared_with(tmp_path: Path) -> None:
    call(tmp_path, "init", "-q")
    (tmp_path / "train.py").touch()
    found = look(tmp_path)
    assert (found.commit, found.branch, found.note) == ("", "main", "nothing is committed yet")


def test_a_detached_head_is_on_no_branch(repository: Path) -> None:
    call(repository, "checkout", "-q", "--detach")
    assert look(repository).branch == ""


def test_a_repository_of_somebody_else_is_looked_at_all_the_same(repository: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    for path in (repository, *repository.rglob("*")):
        os.lchown(path, 4711, 4711)
    refused = subprocess.run(
        ["git", "status"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert "dubious ownership" in refused.stderr
    assert look(repository).branch == "main"


def test_the_variables_of_a_hook_do_not_lead_to_another_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    call(other, "init", "-q")
    commit = call(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    assert look(repository).commit == commit


@pytest.mark.parametrize("is_filter_of_submodule", [False, True])
def test_no_program_that_a_repository_configures_is_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_filter_of_submodule: bool
) -> None:
    mark = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 $@ >> {mark}\ncat\n")
    program.chmod(0o755)
    folder = repository
    if is_filter_of_submodule:
        inner = tmp_path / "inner"
        call(tmp_path, "clone", "-q", str(repository), "inner")
        call(repository, "submodule", "add", "-q", str(inner), "inner")
        call(repository, "commit", "-q", "-m", "with a submodule")
        folder = repository / "inner"
    for name in (
        *("core.fsmonitor", "core.sshCommand", "core.pager", "core.askPass", "core.editor"),
        *("diff.external", "diff.bad.command", "diff.bad.textconv", "credential.helper"),
        *(
            "filter.bad.clean",
            "filter.bad.smudge",
            "filter.bad.process",
            "core.alternateRefsCommand",
        ),
        *("gpg.program", "alias.status", "alias.diff", "merge.bad.driver", "pager.diff"),
    ):
        call(folder, "config", name, str(program))
    call(folder, "config", "filter.bad.required", "true")
    hooks = Path(call(folder, "rev-parse", "--path-format=absolute", "--git-path", "hooks"))
    hooks.mkdir(exist_ok=True)
    for name in ("post-index-change", "post-checkout", "fsmonitor-watchman", "pre-commit"):
        (hooks / name).symlink_to(program)
    (folder / ".gitattributes").write_text("* filter=bad diff=bad merge=bad\n")
    (folder / "trainer" / "train.py").write_text("rate = 2\n")
    (folder / "new.py").write_text("new\n")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(program))
    monkeypatch.setenv("GIT_PAGER", str(program))
    mark.unlink(missing_ok=True)
    found = look(repository)
    assert "+rate = 2" in found.diff
    assert not mark.exists(), mark.read_text()
    subprocess.run(["git", "diff"], cwd=folder, capture_output=True, check=False)
    assert mark.exists()  # whoever just calls git runs them


def test_looking_writes_nothing(repository: Path) -> None:
    (repository / "trainer" / "train.py").write_text("rate = 2\n")

    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in repository.rglob("*")
        }

    before = state()
    look(repository)
    assert state() == before


TOKEN = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0fG3hJ6"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("trainer/train.py", f"token = '{TOKEN}'\n", "an access token"),
        ("new.py", f"token = '{TOKEN}'\n", "an access token"),
        (".env", "API_TOKEN=8f7d6s5a4q3w2e1r\n", "a password or token"),
        ("README.md", "see https://me:k4r9x2m7@example.com/simple\n", "a password in a URL"),
        (
            "id",
            "-----BEGIN PRIVATE KEY-----\n"
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"
            "-----END PRIVATE KEY-----\n",
            "a private key",
        ),
    ],
)
def test_what_looks_like_a_key_is_left_out_of_the_diff(
    repository: Path, name: str, text: str, what: str
) -> None:
    (repository / name).write_text(text)
    (repository / "harmless.py").write_text("a = 1\n")
    found = look(repository)
    assert f"b/{name}" not in found.diff
    assert "+a = 1\n" in found.diff
    assert found.note == f"{name} is left out of the diff: it has what looks like {what}"
    assert name in found.changed


def test_a_key_that_has_been_removed_is_in_the_diff_too(repository: Path) -> None:
    (repository / "trainer" / "train.py").write_text(f"token = '{TOKEN}'\n")
    call(repository, "commit", "-q", "-a", "-m", "with a key")
    (repository / "trainer" / "train.py").write_text("token = None\n")
    assert "looks like an access token" in look(repository).note


def test_a_large_diff_is_cut_off_at_the_end_of_a_line(repository: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(200_000))
    (repository / "trainer" / "train.py").write_text(lines)
    found = look(repository)
    assert 0 < len(found.diff) <= 1 << 20
    assert found.diff.endswith("\n")
    assert found.note == "the diff is cut off after 1 MiB"


def test_large_new_files_are_named_and_no_part_of_the_diff(repository: Path) -> None:
    (repository / "model.bin").write_bytes(b"a\n" * 100_000)
    found = look(repository)
    assert found.diff == ""
    assert found.note == "new files that are not in the diff: model.bin"


def test_a_git_that_takes_too_long_is_not_waited_for(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(git, "_SECONDS", 0.3)
    began = time.monotonic()
    assert git.look(repository)[0] is None
    assert time.monotonic() - began < 30


def test_ten_thousand_new_files_are_summed_up(repository: Path) -> None:
    (repository / "data").mkdir()
    for number in range(10_000):
        (repository / "data" / f"{number}.txt").touch()
    found = look(repository)
    assert len(found.changed) == 500
    assert "9500 more files have changed" in found.note


def test_names_that_would_confuse_are_kept_as_they_are(repository: Path, tmp_path: Path) -> None:
    for name in ("a b", 'quote"d', "new\nline", "ümlaut", "-dash", "b/ b", "tab\t"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("text\n")
    found = look(repository)
    assert set(found.changed) >= {"a b", 'quote"d', "new\nline", "ümlaut", "-dash"}
    applied(repository, found, tmp_path / "again")
    for name in found.changed:
        assert (tmp_path / "again" / name).read_text() == "text\n"
