"""The configuration file that supervisord gets, read back by supervisord's own reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipc_schema.config.options import ConfigError
from logos_deploy.node.conf import SupervisorPaths, access_of, render, supervisor_paths
from logos_deploy.node.programs import Program

supervisor_options = pytest.importorskip("supervisor.options")


def read_back(directory: Path, *command: str) -> object:
    """What supervisord makes of a configuration with this one command."""
    paths = supervisor_paths(directory)
    paths.directory.mkdir(parents=True)
    text = render(paths, [Program("kernel", command, 10)], min_fds=100, user=None, password="pw")
    paths.conf.write_text(text)
    options = supervisor_options.ServerOptions()
    options.realize(["-c", str(paths.conf)])
    return options


@pytest.mark.parametrize(
    "argument",
    [
        "--plain=1",
        "--with space=a b",
        "--percent=100%",
        "--percent=%(here)s",
        "--comment=a ;b",
        "--comment=a #b",
        "--quote=it's",
        '--quote="x"',
        "--back=\\n",
        "",
    ],
)
def test_every_argument_reaches_the_process_as_it_was(tmp_path: Path, argument: str) -> None:
    from supervisor.process import Subprocess

    options = read_back(tmp_path / "d", "/bin/echo", argument, "last")
    (group,) = options.process_group_configs  # type: ignore[attr-defined]
    (program,) = group.process_configs
    assert Subprocess(program).get_execv_args() == ("/bin/echo", ["/bin/echo", argument, "last"])


def test_the_rules_of_restarting(tmp_path: Path) -> None:
    options = read_back(tmp_path / "d", "/bin/echo")
    (group,) = options.process_group_configs  # type: ignore[attr-defined]
    (program,) = group.process_configs
    assert program.startsecs == 0
    assert program.exitcodes == [0, 78]
    assert program.autorestart is pytest.importorskip("supervisor.datatypes").RestartWhenExitUnexpected
    assert program.stopwaitsecs == 6
    assert program.umask == 0o077
    assert program.redirect_stderr
    assert program.stdout_logfile_maxbytes > 0
    assert program.stdout_logfile_backups > 0


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    directory = tmp_path / "5% (it)s"
    options = read_back(directory, "/bin/echo")
    assert options.logfile == str(directory / "supervisor" / "supervisord.log")  # type: ignore[attr-defined]
    (group,) = options.process_group_configs  # type: ignore[attr-defined]
    assert group.process_configs[0].stdout_logfile == str(directory / "supervisor" / "kernel.log")


@pytest.mark.parametrize("name", ["a ;b", "a #b", "line\nbreak", "end "])
def test_a_path_that_the_file_cannot_hold_is_refused(name: str) -> None:
    paths = SupervisorPaths(Path("/d") / name, Path("/d") / name)
    with pytest.raises(ConfigError) as caught:
        render(paths, [], min_fds=100, user=None, password="pw")
    assert caught.value.key == "data-dir"


def test_the_socket_goes_with_ipc_dir_when_the_data_directory_is_too_deep() -> None:
    deep = Path("/x") / ("d" * 100)
    with pytest.raises(ConfigError) as caught:
        supervisor_paths(deep)
    assert caught.value.key == "data-dir"
    assert supervisor_paths(deep, Path("/run/n")).socket == Path("/run/n/supervisor/ctl")
    with pytest.raises(ConfigError) as caught:
        supervisor_paths(deep, deep)
    assert caught.value.key == "ipc-dir"


def test_the_longest_socket_path_leaves_room_for_supervisords_temporary_name() -> None:
    longest = "d" * (107 - len("/") - len("/supervisor/ctl.4194304"))
    assert len(os.fsencode(supervisor_paths(Path("/" + longest)).socket)) + len(".4194304") == 107
    with pytest.raises(ConfigError):
        supervisor_paths(Path("/" + longest + "d"))


def test_the_way_to_a_supervisord_is_read_from_its_file() -> None:
    paths = supervisor_paths(Path("/srv/50% of 'it'"))
    text = render(paths, [Program("kernel", ("/bin/true",), 10)], min_fds=100, user=None, password="pw")
    assert access_of(text) == (paths.socket, "pw")
    assert access_of("[supervisord]\n") is None
    assert access_of("no such file\n") is None
