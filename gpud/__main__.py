"""The composition root: configuration, lock, store, launcher, inventory, socket; then the loop.

`gpud` is `main`; `gpud-launcher` is `launcher`, which gives the launcher process a systemd unit of its own.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from gpud import __version__
from gpud.chores.adoption import adopt
from gpud.chores.journal import start_log
from gpud.clock import Clock, anchored
from gpud.core.policies import POLICIES
from gpud.daemon import Daemon
from gpud.inventory.machine import this_node
from gpud.inventory.nvidia import NvidiaInventory
from gpud.inventory.protocol import Inventory
from gpud.inventory.simulated import SimulatedInventory, parse_nodes
from gpud.launchers import tree
from gpud.launchers.environment import is_outer
from gpud.launchers.link import command
from gpud.launchers.local import LocalLauncher
from gpud.launchers.record import boot_id
from gpud.model.changes import SettingPut
from gpud.notify import Notifier
from gpud.numbering import newest_number
from gpud.parts import Parts
from gpud.reading import ReadThread
from gpud.server.allowance import Allowance
from gpud.server.connections import Server
from gpud.server.listen import ListenError, passed_on, turn_away
from gpud.settings.config import Config
from gpud.settings.sources import ConfigError, load, misspelt, taken
from gpud.store.files import COPIED_AT, FIRST_NUMBER, StoreError, check_database, free_spare, next_number
from gpud.store.jobs import Store
from gpud.store.lock import StateInUseError, lock_state
from gpud.store.rows import Loaded
from gpud.wire.address import stopped_file

log = logging.getLogger("gpud")

_HINT = "is the state directory there, yours and writable? or take another: --state-dir"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run gpud in the foreground until SIGTERM.

    Exits with 2 for a wrong setting, 75 (EX_TEMPFAIL) where another gpud has the state directory, 1 when it cannot
    start for another reason. With --check it only says what is wrong, in the same way. Those who wait at a socket that
    systemd holds are told what only a person can put right; for everything else they wait until the next start.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    held = None
    try:
        _open_streams()
        held = passed_on()
        config = _begin(arguments)
        start_log(config)
        for said in misspelt(os.environ):
            _complain(said, None) if config.check else log.warning("%s", said)
        if config.check:
            check_database(_database(config))
            _check_whole(_database(config), config.state_dir)
            return
        asyncio.run(_serve(config, arguments, held))
    except (StoreError, ListenError, ConfigError) as error:
        _complain(error, error.hint)
        if held is not None and not isinstance(error, StateInUseError):
            turn_away(held, f"gpud cannot start: {error}", error.hint)
        raise SystemExit(_status(error)) from None
    except ConnectionError as error:
        _complain(error, "a service launches through one of its own: systemctl [--user] status gpud-launcher")
        raise SystemExit(1) from None
    except OSError as error:
        _complain(_in_words(error), _HINT)
        raise SystemExit(1) from None


def launcher(arguments: Sequence[str] | None = None) -> NoReturn:
    """Become the launcher process of the gpud that is started with the same options, and let it find this one."""
    try:
        _open_streams()
        config = _begin(sys.argv[1:] if arguments is None else arguments)
        _make_state_dir(config)
    except ConfigError as error:
        _complain(error, error.hint)
        raise SystemExit(_status(error)) from None
    except OSError as error:
        _complain(_in_words(error), _HINT)
        raise SystemExit(1) from None
    words = command(listen=f"{config.state_dir}/launcher.sock", records=f"{config.state_dir}/records")
    os.execv(words[0], words)  # noqa: S606 - no shell is wanted


def _begin(arguments: Sequence[str]) -> Config:
    """Return the configuration; what is made from here on is nobody else's to read. Raises ConfigError."""
    os.umask(0o077)
    for name in filter(is_outer, list(os.environ)):  # of a job that started it, and whose attempts have other keys
        del os.environ[name]
    return _load(arguments)


def _status(error: Exception) -> int:
    """Return what to exit with: a service manager tries again, unless it is a wrong setting."""
    if isinstance(error, ConfigError):
        return 2
    return os.EX_TEMPFAIL if isinstance(error, StateInUseError) else 1


def _open_streams() -> None:
    """Open what was closed of 0, 1 and 2: else the database would get the number that messages are written to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - None where it was closed
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - likewise


def _load(arguments: Sequence[str]) -> Config:
    config = load(arguments)
    if config.policy not in POLICIES:
        raise ConfigError(f"unknown policy {config.policy!r}", f"there is: {', '.join(sorted(POLICIES))}")
    if config.simulate is not None:
        try:
            parse_nodes(config.simulate, this_node())
        except ValueError as error:
            raise ConfigError(f"--simulate: {error}") from None
    return config


async def _serve(config: Config, arguments: Sequence[str], held: socket.socket | None = None) -> None:
    """Serve until told to stop; `held` is the socket to listen on where systemd holds one."""
    tree.rename(b"gpud")
    notifier = Notifier()
    if held is not None:
        config = replace(config, socket=held.getsockname())
    _make_state_dir(config)
    lock = lock_state(config.state_dir, config.socket)
    _tell_of_stop(config, stopped=False)
    path = _database(config)
    free_spare(path)
    _check_whole(path, config.state_dir)
    store = Store.open(path, backup_dir=f"{config.state_dir}/backups")
    loaded = _loaded(store, config.state_dir)
    for each in (path, f"{path}-wal"):
        lock.keep(each)
    boot = boot_id()
    clock, anchor = anchored(loaded.settings.get("clock"), boot)
    if anchor is not None:
        store.commit([SettingPut("clock", anchor)])
    loaded = await adopt(store, config, loaded, clock())
    parts = Parts(
        config=config,
        store=store,
        check=lock.check,
        reader=ReadThread(path),
        inventory=_inventory(config, clock),
        # What a service starts by itself would end with it, jobs and all.
        launcher=LocalLauncher(
            config.state_dir,
            clock=clock,
            spawns=not _is_service(),
            fences_logins=config.login_fence if config.system else None,
        ),
        clock=clock,
        boot=boot,
        notifier=notifier,
    )
    daemon = Daemon(parts, loaded)
    del loaded
    server = _server(config, daemon)
    await daemon.begin()
    await server.start(None if held is None else os.dup(held.fileno()))
    daemon.upkeep.came_up()  # not before: who has no socket never served
    _listen_to_signals(daemon, config, arguments, notifier, leave_word=held is None)
    log.info("gpud %s listens on %s", __version__, config.socket)
    notifier.ready(daemon.upkeep.status_line())
    _feed_watchdog(notifier)
    try:
        await daemon.run()
        server.quiet()
        await daemon.finish()
    finally:
        notifier.stopping()
        log.info("gpud ends; jobs run on")
        await server.close()
        await daemon.close()
        lock.release()


def _server(config: Config, daemon: Daemon) -> Server:
    """Return what serves a daemon on its socket, not yet listening."""
    server = Server(
        config.socket,
        on_request=daemon.on_request,
        on_gone=daemon.on_gone,
        still_here=daemon.still_here,
        welcome=lambda: {
            "version": __version__,
            "pid": os.getpid(),
            "simulated": config.simulate is not None,
            "system": config.system,
        },
        mode=0o666 if config.system else 0o600,
        allowance=Allowance.of(config),
    )
    daemon.on_config = lambda config: server.allow(Allowance.of(config))
    return server


def _check_whole(path: str, state_dir: str) -> None:
    """Raise StoreError for a database that does not know the newest jobs, as where its WAL was damaged: records do.

    One that is not there is a new one, as where it was moved away; one that is empty was cut off.
    """
    following, newest = next_number(path), newest_number(state_dir, "records")
    if following is None and Path(path).exists() and not Path(path).stat().st_size:
        following, newest = 1, newest_number(state_dir, "records", "logs")
    if following is not None and following <= newest:
        raise StoreError(
            f"{path} is damaged: it knows no job from {following} on, and job {newest} was started",
            "it was left as it is; move it away to start with an empty queue, or put a backup in its place",
        )


def _loaded(store: Store, state_dir: str) -> Loaded:
    """Return what the store remembers; one that is new, or a copy, goes on behind what another left in its place."""
    loaded = store.load()
    anew = loaded.next_number == 1 or COPIED_AT in loaded.settings
    newest = newest_number(state_dir, "records", "logs") if anew else 0
    if newest < loaded.next_number:
        return loaded
    log.warning("the database does not know job %d, which has been here: the next one is %d", newest, newest + 1)
    store.commit([SettingPut(FIRST_NUMBER, newest + 1)])
    return store.load()


def _database(config: Config) -> str:
    return f"{config.state_dir}/gpud.db"


def _tell_of_stop(config: Config, *, stopped: bool) -> None:
    """Leave word beside the socket that somebody stopped this gpud, or take it back: who waits for it starts none."""
    path = Path(stopped_file(config.socket))
    with suppress(OSError):
        if stopped:
            path.touch()
        else:
            path.unlink(missing_ok=True)


def _is_service() -> bool:
    """Return whether systemd itself started this process, and not something else that it once started."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def _inventory(config: Config, clock: Clock) -> Inventory:
    if config.simulate is not None:
        return SimulatedInventory(clock=clock, spec=config.simulate)
    return NvidiaInventory(clock=clock, library=config.nvml_library, only=config.gpus, node=this_node())


def _make_state_dir(config: Config) -> None:
    os.makedirs(config.state_dir, mode=0o700, exist_ok=True)  # noqa: PTH103 - a mode for the last one only
    if config.system:
        os.chmod(config.state_dir, 0o711)  # noqa: PTH101, S103 - users pass through to their logs


def _listen_to_signals(
    daemon: Daemon, config: Config, arguments: Sequence[str], notifier: Notifier, *, leave_word: bool
) -> None:
    """Stop on TERM and INT, read the configuration again on HUP. `leave_word`: no service manager knows of a stop."""
    loop = asyncio.get_running_loop()
    current = config

    def stop() -> None:
        if leave_word:
            _tell_of_stop(config, stopped=True)
        daemon.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    def reload() -> None:
        nonlocal current
        notifier.reloading()
        try:
            current, left = taken(current, _load(arguments))
        except ConfigError as error:
            log.error("configuration not changed: %s", error)  # noqa: TRY400 - told in its own words
        else:
            if left:
                log.warning("not taken from the configuration before gpud is started anew: %s", ", ".join(left))
            logging.getLogger().setLevel(current.log_level.upper())
            daemon.reconfigure(current)
        notifier.ready(daemon.upkeep.status_line())

    loop.add_signal_handler(signal.SIGHUP, reload)


def _feed_watchdog(notifier: Notifier) -> None:
    if notifier.watchdog_s is not None:
        notifier.alive()
        asyncio.get_running_loop().call_later(notifier.watchdog_s, _feed_watchdog, notifier)


def _in_words(error: OSError) -> str:
    return f"cannot use {error.filename}: {error.strerror}" if error.filename else str(error)


def _complain(error: Exception | str, hint: str | None) -> None:
    sys.stderr.write(f"gpud: {error}\n" + (f"  hint: {hint}\n" if hint else ""))


if __name__ == "__main__":
    main()
