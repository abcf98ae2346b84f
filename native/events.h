/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EVENTS_H
#define OBD_EVENTS_H
#include "obd.h"

/** Copies event into the queue, or counts it as dropped when the queue is full. Never blocks on the reader. */
void obd_events_push(struct obd_events *events, const struct obd_event *event);

#endif
