"""The composition root: configuration, lock, store, launcher, inventory, socket; then the loop.

`gpud` is `main`; `gpud-launcher` is `launcher`, which gives the launcher process a systemd unit of its own.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from gpud import __version__
from gpud.clock import Clock, anchored
from gpud.config import Config, ConfigError, load, needs_restart
from gpud.core.policies import POLICIES
from gpud.daemon import Daemon, Parts
from gpud.inventory.machine import this_node
from gpud.inventory.nvidia import NvidiaInventory
from gpud.inventory.protocol import Inventory
from gpud.inventory.simulated import SimulatedInventory
from gpud.launchers.link import command
from gpud.launchers.local import LocalLauncher
from gpud.launchers.record import boot_id
from gpud.listen import ListenError
from gpud.model.changes import SettingPut
from gpud.notify import Notifier
from gpud.reading import ReadThread
from gpud.server import Server
from gpud.store.files import StoreError
from gpud.store.jobs import Store
from gpud.store.lock import StateInUseError, lock_state

log = logging.getLogger("gpud")

_HINT = "is the state directory there, yours and writable? or take another: --state-dir"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run gpud in the foreground until SIGTERM.

    Exits with 2 for a wrong setting, 75 (EX_TEMPFAIL) where another gpud has the state directory, 1 when it cannot
    start for another reason.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    config = _begin(arguments)
    _start_log(config)
    try:
        asyncio.run(_serve(config, arguments))
    except (StoreError, ListenError, ConfigError) as error:
        _complain(error, error.hint)
        raise SystemExit(os.EX_TEMPFAIL if isinstance(error, StateInUseError) else 1) from None
    except ConnectionError as error:
        _complain(error, "a service launches through one of its own: systemctl [--user] status gpud-launcher")
        raise SystemExit(1) from None
    except OSError as error:
        _complain(error, _HINT)
        raise SystemExit(1) from None


def launcher(arguments: Sequence[str] | None = None) -> NoReturn:
    """Become the launcher process of the gpud that is started with the same options, and let it find this one."""
    config = _begin(sys.argv[1:] if arguments is None else arguments)
    try:
        _make_state_dir(config)
    except OSError as error:
        _complain(error, _HINT)
        raise SystemExit(1) from None
    words = command(listen=f"{config.state_dir}/launcher.sock", records=f"{config.state_dir}/records")
    os.execv(words[0], words)  # noqa: S606 - no shell is wanted


def _begin(arguments: Sequence[str]) -> Config:
    """Return the configuration; what is made from here on is nobody else's to read. Exits with 2 for a wrong one."""
    os.umask(0o077)
    try:
        return _load(arguments)
    except ConfigError as error:
        _complain(error, error.hint)
        raise SystemExit(2) from None


def _load(arguments: Sequence[str]) -> Config:
    config = load(arguments)
    if config.policy not in POLICIES:
        raise ConfigError(f"unknown policy {config.policy!r}", f"there is: {', '.join(sorted(POLICIES))}")
    return config


async def _serve(config: Config, arguments: Sequence[str]) -> None:
    notifier = Notifier()
    _make_state_dir(config)
    lock = lock_state(config.state_dir)
    path = f"{config.state_dir}/gpud.db"
    store = Store.open(path, backup_dir=f"{config.state_dir}/backups")
    loaded = store.load()
    boot = boot_id()
    clock, anchor = anchored(loaded.settings.get("clock"), boot)
    if anchor is not None:
        store.commit([SettingPut("clock", anchor)])
    parts = Parts(
        config=config,
        store=store,
        check=lock.check,
        reader=ReadThread(path),
        inventory=_inventory(config, clock),
        # What a service starts by itself would end with it, jobs and all.
        launcher=LocalLauncher(config.state_dir, clock=clock, spawns=not _is_service()),
        clock=clock,
        boot=boot,
        notifier=notifier,
    )
    daemon = Daemon(parts, loaded)
    del loaded
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
    )
    await daemon.begin()
    await server.start()
    _listen_to_signals(daemon, config, arguments, notifier)
    log.info("gpud %s listens on %s", __version__, config.socket)
    notifier.ready(daemon.status_line())
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


def _is_service() -> bool:
    """Return whether systemd itself started this process, and not something else that it once started."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def _inventory(config: Config, clock: Clock) -> Inventory:
    if config.simulate is not None:
        try:
            return SimulatedInventory(clock=clock, spec=config.simulate)
        except ValueError as error:
            raise ConfigError(f"--simulate: {error}") from None
    return NvidiaInventory(clock=clock, library=config.nvml_library, only=config.gpus, node=this_node())


def _make_state_dir(config: Config) -> None:
    os.makedirs(config.state_dir, mode=0o700, exist_ok=True)  # noqa: PTH103 - a mode for the last one only
    if config.system:
        os.chmod(config.state_dir, 0o711)  # noqa: PTH101, S103 - users pass through to their logs


def _listen_to_signals(daemon: Daemon, config: Config, arguments: Sequence[str], notifier: Notifier) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    current = config

    def reload() -> None:
        nonlocal current
        notifier.reloading()
        try:
            new = _load(arguments)
        except ConfigError as error:
            log.error("configuration not changed: %s", error)  # noqa: TRY400 - told in its own words
        else:
            for key in needs_restart(current, new):
                log.warning("%s changes with the next start of gpud only", key)
            current = new
            logging.getLogger().setLevel(new.log_level.upper())
            daemon.reconfigure(new)
        notifier.ready(daemon.status_line())

    loop.add_signal_handler(signal.SIGHUP, reload)


def _feed_watchdog(notifier: Notifier) -> None:
    if notifier.watchdog_s is not None:
        notifier.alive()
        asyncio.get_running_loop().call_later(notifier.watchdog_s, _feed_watchdog, notifier)


def _start_log(config: Config) -> None:
    form = "%(asctime)s %(levelname)s %(message)s"
    about = os.fstat(sys.stderr.fileno())
    if os.environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}":  # which has times and, by <N>, levels
        form = "%(levelname)s%(message)s"
        for level, priority in ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)):
            logging.addLevelName(level, f"<{priority}>")
    logging.basicConfig(stream=sys.stderr, level=config.log_level.upper(), format=form)


def _complain(error: Exception, hint: str | None) -> None:
    sys.stderr.write(f"gpud: {error}\n" + (f"  hint: {hint}\n" if hint else ""))


if __name__ == "__main__":
    main()
