/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the data plane has to say to the control plane: failed reads, slow reads. A bounded queue, so that a disk that
 * fails a million reads costs a counter and not memory. It is never touched on a hit; its lock guards the ring below
 * and is held for a copy of one event.
 */
#include "events.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

enum { CAPACITY = 256 };

struct obd_events {
	pthread_mutex_t lock;
	pthread_cond_t filled;
	unsigned head, count;
	uint64_t dropped;
	bool stopped;
	struct obd_event ring[CAPACITY];
};

int obd_events_create(struct obd_events **ret)
{
	struct obd_events *events = calloc(1, sizeof(*events));

	if (!events)
		return -ENOMEM;
	pthread_mutex_init(&events->lock, NULL);
	obd_cond_init(&events->filled);
	*ret = events;
	return 0;
}

void obd_events_destroy(struct obd_events *events)
{
	if (!events)
		return;
	pthread_cond_destroy(&events->filled);
	pthread_mutex_destroy(&events->lock);
	free(events);
}

void obd_events_push(struct obd_events *events, const struct obd_event *event)
{
	pthread_mutex_lock(&events->lock);
	if (events->count == CAPACITY) {
		events->dropped++;
	} else {
		struct obd_event *slot = &events->ring[(events->head + events->count) % CAPACITY];

		*slot = *event;
		slot->dropped = events->dropped;
		events->dropped = 0;
		events->count++;
		pthread_cond_signal(&events->filled);
	}
	pthread_mutex_unlock(&events->lock);
}

int obd_events_next(struct obd_events *events, int timeout_ms, struct obd_event *ret)
{
	const uint64_t deadline = obd_deadline_ns(timeout_ms);
	int got = 0, r = 0;

	pthread_mutex_lock(&events->lock);
	while (events->count == 0 && !events->stopped && r != ETIMEDOUT)
		r = obd_cond_wait_until(&events->filled, &events->lock, deadline);
	if (events->count) {
		*ret = events->ring[events->head];
		events->head = (events->head + 1) % CAPACITY;
		events->count--;
		got = 1;
	} else if (events->stopped) {
		got = -ESHUTDOWN;
	}
	pthread_mutex_unlock(&events->lock);
	return got;
}

void obd_events_stop(struct obd_events *events)
{
	pthread_mutex_lock(&events->lock);
	events->stopped = true;
	pthread_cond_broadcast(&events->filled);
	pthread_mutex_unlock(&events->lock);
}
