# SPDX-License-Identifier: Apache-2.0
"""
The exporter and the API of a daemon, as its configuration wants them.

Neither may keep a disk from being served: what cannot listen is told in the log, and tried again
for as long as the daemon runs.
"""

import logging
import threading
from typing import List

from .. import address, config, errors
from ..image import remote
from ..tcmu import handler
from . import api, metrics, sampler, server

log = logging.getLogger("ops.service")

# Another process may have the port, for a while.
RETRY_S = 5.0


class Service:
    """start(), then stop(); both are quick. join() waits for requests that are being served."""

    def __init__(
        self, service: config.ServiceConfig, devices: handler.Handler, layers: remote.Remote
    ) -> None:
        self._servers: List[server.Server] = []
        rates = sampler.Sampler(
            devices.survey,
            lambda: layers.report().fetched,
            service.exporter.update_interval_us / 1e6,
        )
        self._sampler = rates
        if service.exporter.enable:
            exporter = metrics.Exporter(
                metrics.Collector(devices.survey, layers.report, rates),
                service.exporter.uri_prefix,
            )
            where = address.Address(service.exporter.address, service.exporter.port)
            self._servers.append(server.Server("metrics", where, exporter.route, guarded=False))
        if service.api.enable:
            where = address.parse(service.api.address)
            route = api.Api(devices, layers).route
            guarded = not where.path and not service.api.allow_remote
            self._servers.append(server.Server("api", where, route, guarded))
        self._ending = threading.Event()
        self._retrying = threading.Thread(target=self._retry, name="listen")

    def start(self) -> None:
        self._sampler.start()
        if not all([_listens(one) for one in self._servers]):
            self._retrying.start()

    def stop(self) -> None:
        self._ending.set()
        if self._retrying.ident is not None:
            self._retrying.join()
        for one in self._servers:
            one.stop()
        self._sampler.stop()

    def join(self) -> None:
        for one in self._servers:
            one.join()

    def _retry(self) -> None:
        while not self._ending.wait(RETRY_S):
            if all([one.listens or _listens(one) for one in self._servers]):
                return


def _listens(one: server.Server) -> bool:
    try:
        one.start()
        return True
    except (OSError, errors.Error) as error:
        log.error("cannot listen, will be repeated address=%s error=%s", one.where, error)
        return False
