# SPDX-License-Identifier: Apache-2.0
"""
Opens the image of a config.v1.json: finds each layer's file, opens the layers side by side, stacks
them. The reasons of an ImageError are the words users know; what exactly went wrong follows them.
"""

import concurrent.futures
import contextlib
import functools
import logging
import os
import threading
import time
from typing import Callable, Iterator, List, Optional, Tuple

from .. import errors, schema
from ..ffi import native
from . import config
from . import remote as remote_layers
from . import result

log = logging.getLogger("image.opener")

# What a layer's directory may hold, best first: committed, committed the old way, sealed.
LAYER_NAMES = ("overlaybd.commit", ".commit", "overlaybd.sealed")

# Behind the name of a writable layer's data file: what overlaybd-resize is about to make of it.
RESIZING = ".resizing"

# Layers opened at once. Opening is mostly waiting for the disk; the core does it without the GIL.
OPENERS = 16

# Helper threads of one image beyond which more cores do not help a queue of 128 commands.
MAX_HELPERS = 7

OpenLayer = Callable[[], native.Layer]


def open_image(
    image_config: config.ImageConfig,
    engine: int = native.Engine.PSYNC,
    events: Optional[native.Events] = None,
    remote: Optional[remote_layers.Remote] = None,
    stop: Optional[threading.Event] = None,
    read_only: bool = False,
    resizing: bool = False,
    in_order: bool = False,
) -> native.Image:
    """
    The image, writable if it has an upper and read_only is False; ImageError says why not. Without
    remote, its layers must be local. stop, once set, ends the waiting for a registry. resizing: by
    the tool that resizes it. in_order: by a tool that goes through it, with Image.advance(), and
    has not the memory for its index.
    """
    direct = engine == native.Engine.LIBAIO
    lean = native.Lean.IN_ORDER if in_order else native.Lean.NOT
    with contextlib.closing(remote_layers.Opening(remote, image_config, stop, lean)) as opening:
        layers = _open_lowers(image_config, direct, opening)
        upper: Optional[native.Upper] = None
        try:
            upper = _open_upper(image_config.upper, read_only or in_order, resizing, in_order)
            return opening.image(
                layers,
                engine=engine,
                helpers=helpers(),
                events=events,
                name=image_config.path,
                upper=upper,
            )
        except errors.NativeError as error:
            reason = "failed to create overlaybd device"
            raise errors.ImageError(reason, str(error)) from error
        finally:
            # empty unless the image could not be made
            for layer in layers:
                layer.close()
            if upper is not None and not upper.closed:
                upper.close()


@contextlib.contextmanager
def open_layers(
    image_config: config.ImageConfig,
    remote: Optional[remote_layers.Remote] = None,
) -> Iterator[Tuple[List[native.Layer], Optional[native.Upper]]]:
    """
    The layers themselves, the lowest first, and the writable one over them, all lean: to be
    committed. Without remote, they must be local.
    """
    with contextlib.ExitStack() as stack:
        opening = stack.enter_context(
            contextlib.closing(
                remote_layers.Opening(remote, image_config, lean=native.Lean.TO_COMMIT)
            )
        )
        layers = _open_lowers(image_config, False, opening)
        for layer in layers:
            stack.enter_context(layer)
        upper = _open_upper(image_config.upper, read_only=True, lean=True)
        if upper is not None:
            stack.enter_context(upper)
        yield layers, upper


def open_with_result(
    path: str, open_one: Callable[[config.ImageConfig], native.Image]
) -> native.Image:
    """Reads the config, lets open_one open it, and tells the outcome in the resultFile."""
    result_file = ""
    try:
        document = schema.read(path)
        result_file = config.result_file_of(document)
        image = open_one(config.parse(path, document))
    except (errors.Error, OSError) as error:
        result.write(result_file, result.FAILED + _reason(error))
        raise
    result.write(result_file, result.SUCCESS)
    return image


def tell_failure(path: str, failure: errors.Error) -> None:
    """Writes a failure that came before the opening into the resultFile of the config at path."""
    try:
        result_file = config.result_file_of(schema.read(path))
    except errors.ConfigError:
        return  # nobody can be told
    result.write(result_file, result.FAILED + _reason(failure))


def _reason(error: BaseException) -> str:
    """One line; a resultFile's reader knows which config it is about."""
    if isinstance(error, errors.ConfigError):
        return ": ".join(part for part in (error.key, error.reason) if part)
    return " ".join(str(error).split("\n"))


def helpers() -> int:
    """Threads beside the front end's own: one for each further CPU we may run on."""
    return min(len(os.sched_getaffinity(0)) - 1, MAX_HELPERS)


def _refuse_unsupported(image_config: config.ImageConfig) -> None:
    if image_config.upper.is_used and image_config.upper.target:
        raise errors.ImageError("turboOCI layers are not supported yet", "upper")
    for number, lower in enumerate(image_config.data_lowers):
        if lower.is_turbo:
            raise errors.ImageError("turboOCI layers are not supported yet", f"layer {number}")


def _open_lowers(
    image_config: config.ImageConfig, direct: bool, opening: remote_layers.Opening
) -> List[native.Layer]:
    _refuse_unsupported(image_config)
    return _open_layers(
        [
            _how_to_open(image_config, number, lower, direct, opening)
            for number, lower in enumerate(image_config.data_lowers)
        ],
        opening.give_up,
    )


def _how_to_open(
    image_config: config.ImageConfig,
    number: int,
    lower: config.LowerConfig,
    direct: bool,
    opening: remote_layers.Opening,
) -> OpenLayer:
    found = local_place(lower)
    if found is not None:
        return functools.partial(_open_local, number, found, direct, opening.lean)
    if not image_config.repo_blob_url:
        # The words for a remote layer without a registry; a lost local file is told apart.
        places = _places(lower)
        lost = f"no such file: {', '.join(places)}" if places else "neither file nor dir nor digest"
        cause = "" if lower.digest else f"layer {number}: {lost}"
        raise errors.ImageError("empty repoBlobUrl", cause)
    if not lower.digest:
        reason = f"failed to open layer {number}"
        raise errors.ImageError(reason, "neither a local file nor a digest")
    return functools.partial(opening.open_layer, number, lower)


def local_place(lower: config.LowerConfig) -> Optional[str]:
    """The local file a layer would be opened from; None: a registry has to have it."""
    return next(filter(os.path.exists, _places(lower)), None)


def _places(lower: config.LowerConfig) -> List[str]:
    """Where a layer's file may be, best first."""
    places = [lower.file] if lower.file else []
    if lower.dir:
        places += [os.path.join(lower.dir, name) for name in LAYER_NAMES]
    return places


def _open_upper(
    upper: config.UpperConfig, read_only: bool, resizing: bool = False, lean: bool = False
) -> Optional[native.Upper]:
    """The writable layer, if there is one; what a crash has left of it is put right, and told."""
    if not upper.is_used:
        return None
    if os.path.exists(upper.data + RESIZING) and not resizing:
        # overlaybd-resize was killed while it wrote a new file system into the layer.
        left = f"{upper.data}{RESIZING} is left of it; run overlaybd-resize again"
        raise errors.ImageError("the image is being resized", left)
    try:
        opened = native.Upper(upper.data, upper.index, read_only, lean=lean)
    except errors.NativeError as error:
        raise errors.ImageError("failed to open upper", str(error)) from error
    info = opened.info()
    if info.dropped:
        text = "entries no flush had confirmed were dropped index=%s count=%d"
        log.warning(text, upper.index, info.dropped)
    return opened


def _open_layers(opens: List[OpenLayer], give_up: Callable[[], None]) -> List[native.Layer]:
    """
    All or none. Of several failures the lowest layer's is told, whoever failed first. Ctrl-C, in a
    program's main thread, gives up those that wait for a registry.
    """
    started = time.monotonic()
    threads = max(min(len(opens), OPENERS), 1)
    futures: "List[concurrent.futures.Future[native.Layer]]" = []
    failure: Optional[BaseException] = None
    with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="open") as executor:
        try:
            for open_one in opens:
                futures.append(executor.submit(open_one))
            for future in futures:
                # Work is handed out in order: whatever lies below a failed layer has been started.
                if failure is not None and future.cancel():
                    continue
                error = future.exception()
                failure = error if failure is None else failure
        except KeyboardInterrupt as interrupt:
            failure = interrupt
            give_up()
            executor.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        for future in futures:
            if not future.cancelled() and future.exception() is None:
                future.result().close()
        raise failure
    layers = [future.result() for future in futures]
    elapsed_ms = (time.monotonic() - started) * 1000
    log.debug("layers opened count=%d elapsed_ms=%.1f", len(layers), elapsed_ms)
    return layers


def _open_local(number: int, path: str, direct: bool, lean: native.Lean) -> native.Layer:
    try:
        blob = native.Blob(path, direct)
    except errors.NativeError as error:
        raise errors.ImageError(
            f"failed to open local file {path}", os.strerror(error.code)
        ) from error
    try:
        return native.Layer(blob, lean)
    except errors.NativeError as error:
        raise errors.ImageError(f"failed to open layer {number}", str(error)) from error
