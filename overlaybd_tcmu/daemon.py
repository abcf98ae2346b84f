# SPDX-License-Identifier: Apache-2.0
"""
overlaybd-tcmu: the service. Arguments, configuration, log, signals; start, and stop in reverse.

Threads: the main one waits for what libtcmu has to say (devices coming and going), has it handled,
and tells systemd that we live; "signals" waits for signals, which every other thread has blocked,
so that none interrupts a device's work; "events" writes what the data plane reports; one for each
device stays in the core. The exporter and the API have their own (ops/).
"""

import argparse
import logging
import os
import resource
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Callable, List, Optional

from . import __version__, audit, config, errors, log, notify, reload
from .ffi import libtcmu, native, process
from .image import config as image_config
from .image import opener, remote
from .tcmu import handler, kernel, pump

if TYPE_CHECKING:
    from .ops import service as ops

logger = logging.getLogger("daemon")

EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_RUNNING, EXIT_NO_TCMU, EXIT_STUCK = range(6)

EXIT_CODES = """\
exit status:
  0  stopped by SIGTERM or SIGINT
  1  failed for another reason than those below
  2  wrong arguments or configuration
  3  another overlaybd-tcmu serves this host
  4  the kernel's TCMU or libtcmu is missing or refuses
  5  devices did not finish in time when stopping; the next start takes them over

signals:
  SIGHUP   open the log files anew, and read the configuration again: the log
           says what of it acts, and when
  SIGUSR1  write the state of each device to the log
"""

# A device that never finishes must not hold a restart up: the next daemon takes it over anyway.
STOP_DEADLINE_S = 10.0

# How long openings may go on when we are told to stop: whoever attaches is then answered, and
# notices nothing of a restart.
FINISH_S = 2.0

# Ready means that live devices are served again. Those whose image takes longer, because a registry
# is away, keep their readers waiting, but not the host's boot.
READY_DEADLINE_S = 15.0

# How often the main loop looks after openings, and after what was adopted.
LOOK_S = 1.0
SETTLING_S = 0.02

# Who fetches a missing range needs the interpreter for moments. Beside one busy Python thread it
# gets it after 5.1 ms (median) with the default of 5 ms, after 0.6 ms with this.
SWITCH_INTERVAL_S = 0.0005

# Enough for every blob of every device; the default of 1024 is not.
OPEN_FILES = 1048576

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """The thread "signals". Construct it before any other: threads inherit what is blocked."""

    def __init__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # readable: to stop
        self.report_state: Callable[[], None] = lambda: None
        self.reload: Callable[[], None] = lambda: None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="signals")
        self._thread.start()

    def end(self) -> None:
        self._ended = True
        signal.pthread_kill(self._thread.ident or 0, signal.SIGHUP)
        self._thread.join()
        os.close(self.fd)
        os.close(self._write_fd)

    def _run(self) -> None:
        while True:
            number = signal.sigwait(_SIGNALS)
            if self._ended:
                return
            try:
                self._handle(number)
            except Exception:  # the thread's top
                logger.exception("signal not handled number=%d", number)

    def _handle(self, number: int) -> None:
        logger.info("signal received name=%s", signal.Signals(number).name)
        if number == signal.SIGHUP:
            log.reopen()
            self.reload()
        elif number == signal.SIGUSR1:
            self.report_state()
        else:
            os.write(self._write_fd, b"s")


class Daemon:
    """Everything that lives from start to stop."""

    def __init__(self, service: config.ServiceConfig, signals: Signals, path: str) -> None:
        self._service = service
        self._signals = signals
        self._path = path
        self._drain = audit.Drain()
        self._remote = remote.Remote(service, path=path)
        self._handler = handler.Handler(self._open_image)
        self._ops: Optional["ops.Service"] = None
        self._context: Optional[libtcmu.Context] = None
        self._pump: Optional[pump.Pump] = None
        self._adopted = 0

    def run(self) -> None:
        """Serves until a signal says stop. The caller holds the instance lock."""
        logger.info("current version: %s core=%s", __version__, native.build_info())
        self._drain.start()
        try:
            self._signals.report_state = self._log_state
            messages = self._start()
            self._signals.reload = self._reload
            self._start_ops()
            self._serve(messages)
            notify.send("STOPPING=1")
            self._signals.reload = lambda: None
        finally:
            if not self._stop():
                logging.shutdown()
                os._exit(EXIT_STUCK)  # a regular end would wait for the threads that hang

    def _start(self) -> pump.Pump:
        """Takes the host's live devices over; meanwhile nothing can be attached."""
        libtcmu.library().set_log_level(libtcmu.LOG_LEVELS[self._service.log.level])
        started = time.monotonic()
        self._handler.turn.take()
        try:
            self._handler.begin_adoption()
            with kernel.netlink_blocked():
                self._context = libtcmu.Context(
                    handler.NAME, handler.SUBTYPE, handler.DESCRIPTION, self._handler
                )
                kernel.tune_netlink(self._context.fd())
                self._handler.end_adoption()
            elapsed_ms = (time.monotonic() - started) * 1000
            self._adopted = self._handler.open_adopted()
        finally:
            self._handler.turn.give()
        logger.info("adopted count=%d elapsed_ms=%.1f", self._adopted, elapsed_ms)
        self._pump = pump.Pump(self._context, self._handler.turn)
        return self._pump

    def _start_ops(self) -> None:
        """The exporter and the API, when the disks are served."""
        if not self._service.exporter.enable and not self._service.api.enable:
            return
        from .ops import service as ops  # here: it takes 200 ms, and nobody else need wait for it

        self._ops = ops.Service(self._service, self._handler, self._remote)
        self._ops.start()

    def _serve(self, messages: pump.Pump) -> None:
        assert self._context is not None
        poll = select.poll()
        poll.register(self._context.fd(), select.POLLIN)
        poll.register(self._signals.fd, select.POLLIN)
        watchdog_s = notify.watchdog_s()
        started = told = time.monotonic()
        ready = self._say_ready(started)
        while True:
            look_s = LOOK_S if messages.busy() else watchdog_s
            timeout_s = look_s if ready else SETTLING_S
            events = [fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)]
            if self._signals.fd in events:
                return
            if self._context.fd() in events:
                messages.dispatch()
            self._handler.cancel_removed()
            ready = ready or self._say_ready(started)
            now = time.monotonic()
            if ready and watchdog_s is not None and now - told >= watchdog_s / 2:
                if messages.alive():
                    notify.send("WATCHDOG=1")
                told = now

    def _say_ready(self, started: float) -> bool:
        """Once every live device is served again, or has had its time."""
        waiting = self._handler.unsettled()
        elapsed_s = time.monotonic() - started
        if waiting and elapsed_s < READY_DEADLINE_S:
            return False
        for name in waiting:
            logger.warning("image is not open yet name=%s", name)
        text = "ready adopted=%d waiting=%d elapsed_ms=%.1f"
        logger.info(text, self._adopted, len(waiting), elapsed_s * 1000)
        notify.send("READY=1")
        return True

    def _stop(self) -> bool:
        """
        Closes every device and what they use. False when the deadline passed: libtcmu waits for
        empty rings without one, so it does that on a thread which then cannot be joined.
        """
        closing = threading.Thread(target=self._close_devices, name="closing", daemon=True)
        closing.start()
        closing.join(STOP_DEADLINE_S)
        if closing.is_alive():
            logger.error("devices did not finish deadline_s=%.0f", STOP_DEADLINE_S)
            self._log_state()
            return False
        self._remote.stop()
        self._drain.stop()
        self._drain.join()
        logger.info("stopped")
        return True

    def _close_devices(self) -> None:
        try:
            if self._ops is not None:
                self._ops.stop()
                self._ops.join()
            if self._pump is not None and not self._pump.join(FINISH_S):
                self._handler.cancel_all()
                self._pump.join(STOP_DEADLINE_S)
            if self._context is not None:
                self._handler.turn.take()
                self._context.close()
        except Exception:  # the thread's top
            logger.exception("closing failed")

    def _open_image(self, one: image_config.ImageConfig, stop: threading.Event) -> native.Image:
        engine, events = self._service.io_engine, self._drain.events
        return opener.open_image(one, engine, events, self._remote, stop)

    def _reload(self) -> None:
        """On the thread "signals": nothing here may take long."""
        try:
            found, warnings = config.load(self._path)
        except errors.ConfigError as error:
            logger.error("configuration not read again, all stays as it was error=%s", error)
            return
        for warning in warnings:
            logger.warning("config %s", warning)
        service, changes = reload.compare(self._service, found)
        self._service = service
        changed = {change.key for change in changes}
        if "logConfig.logLevel" in changed:
            log.set_level(service.log.level)
            libtcmu.library().set_log_level(libtcmu.LOG_LEVELS[service.log.level])
        log.resize(service.log.size_mb, service.log.rotate_num)
        if changed & {"enableAudit", "auditPath"}:
            audit.setup(service.audit_path if service.enable_audit else "")
        self._remote.reload(service)
        for change in changes:
            later = change.when is reload.When.NEXT_START
            logger.log(logging.WARNING if later else logging.INFO, "reload %s", change)
        logger.info("configuration read again changes=%d", len(changes))

    def _log_state(self) -> None:
        for line in self._handler.describe():
            logger.warning("state %s", line)


def raise_open_files() -> None:
    """The soft limit as high as it goes; a low one only matters on a host with many layers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((OPEN_FILES, max(hard, OPEN_FILES)), (min(hard, OPEN_FILES), hard)):
        if soft >= limits[0]:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return
        except (ValueError, OSError) as error:
            logger.info("open files not raised wanted=%d error=%s", limits[0], error)


def serve(service: config.ServiceConfig, warnings: List[str], path: str) -> None:
    """Sets the process up and runs the daemon in it."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    process.limit_memory()
    log.setup(service.log.level, service.log.path, service.log.size_mb, service.log.rotate_num)
    audit.setup(service.audit_path if service.enable_audit else "")
    for warning in warnings:
        logger.warning("config %s", warning)
    raise_open_files()
    kernel.check_module()
    lock = kernel.InstanceLock()
    try:
        load_libraries()
        signals = Signals()
        try:
            Daemon(service, signals, path).run()
        finally:
            signals.end()
    finally:
        lock.close()
        audit.close()


def load_libraries() -> None:
    """Fails before anything of the kernel's has been touched."""
    native.build_info()
    try:
        libtcmu.library()
    except errors.LibraryError as error:
        raise errors.TcmuError(str(error), "install libtcmu 1.5 or newer") from error


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="overlaybd-tcmu",
        description="Serves overlaybd images as block devices through the kernel's TCMU.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        nargs="?",
        default=config.DEFAULT_PATH,
        help="service configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--show-config",
        action="store_true",
        help="print the effective configuration as JSON, and end",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(arguments)


def exit_status(error: Exception) -> int:
    """What a failure to start means to whoever started us."""
    if isinstance(error, errors.ConfigError):
        return EXIT_CONFIG
    if isinstance(error, errors.AlreadyRunning):
        return EXIT_RUNNING
    return EXIT_NO_TCMU if isinstance(error, errors.TcmuError) else EXIT_FAILED


def main(arguments: Optional[List[str]] = None) -> int:
    """The program; returns its exit status."""
    options = parse_arguments(arguments)
    logging.getLogger().addHandler(logging.NullHandler())  # what fails before the log is set up
    try:
        service, warnings = config.load(options.config)
        if options.show_config:
            for warning in warnings:
                print(f"overlaybd-tcmu: warning: {options.config}: {warning}", file=sys.stderr)
            print(config.show(service))
        else:
            serve(service, warnings, options.config)
        return EXIT_OK
    except (errors.Error, OSError) as error:
        logger.critical("%s", error)
        print(f"overlaybd-tcmu: {error}", file=sys.stderr)
        return exit_status(error)


if __name__ == "__main__":
    sys.exit(main())
