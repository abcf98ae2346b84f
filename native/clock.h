/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_CLOCK_H
#define OBD_CLOCK_H
#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* Waiting by the monotonic clock: one that somebody sets would make a wait last for hours. */

/** Monotonic nanoseconds. */
static inline uint64_t obd_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/** The same clock, some milliseconds old, for a quarter of the price. */
static inline uint64_t obd_recent_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static inline struct timespec obd_timespec(uint64_t ns)
{
	return (struct timespec){
		.tv_sec = (time_t)(ns / UINT64_C(1000000000)),
		.tv_nsec = (long)(ns % UINT64_C(1000000000)),
	};
}

/** When timeout_ms from now is over; UINT64_MAX, never, when it is negative. */
static inline uint64_t obd_deadline_ns(int timeout_ms)
{
	return timeout_ms < 0 ? UINT64_MAX : obd_now_ns() + (uint64_t)timeout_ms * UINT64_C(1000000);
}

/** A condition for obd_cond_wait_until. */
static inline void obd_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

/** ETIMEDOUT once the deadline has passed. */
static inline int obd_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
	const struct timespec until = obd_timespec(deadline_ns);

	return deadline_ns == UINT64_MAX ? pthread_cond_wait(cond, lock) : pthread_cond_timedwait(cond, lock, &until);
}

#endif
