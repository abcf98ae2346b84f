/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_GRACE_H
#define OBD_GRACE_H
#include <pthread.h>
#include <stdint.h>
#include <time.h>

/*
 * Readers say when they begin and end; who has replaced what they read waits until all have ended that may have found
 * the old. Readers never wait. There are two counts, and new readers take the other one once somebody waits.
 */
struct obd_grace {
	unsigned side;		   /**< atomic: its lowest bit says which count new readers take */
	unsigned readers[2];	   /**< atomic */
	pthread_mutex_t wait_lock; /**< one waits at a time: held until those it waits for have ended */
};

static inline unsigned obd_grace_enter(struct obd_grace *grace)
{
	for (;;) {
		const unsigned side = __atomic_load_n(&grace->side, __ATOMIC_SEQ_CST) & 1;

		__atomic_add_fetch(&grace->readers[side], 1, __ATOMIC_SEQ_CST);
		/* either we see that sides were changed, or who changed them sees us */
		if ((__atomic_load_n(&grace->side, __ATOMIC_SEQ_CST) & 1) == side)
			return side;
		__atomic_sub_fetch(&grace->readers[side], 1, __ATOMIC_RELEASE);
	}
}

static inline void obd_grace_leave(struct obd_grace *grace, unsigned side)
{
	__atomic_sub_fetch(&grace->readers[side], 1, __ATOMIC_RELEASE);
}

/** Not for readers. */
static inline void obd_grace_wait(struct obd_grace *grace)
{
	const struct timespec pause = {0, 100000};
	unsigned side;

	pthread_mutex_lock(&grace->wait_lock);
	side = __atomic_fetch_add(&grace->side, 1, __ATOMIC_SEQ_CST) & 1;
	while (__atomic_load_n(&grace->readers[side], __ATOMIC_SEQ_CST))
		nanosleep(&pause, NULL);
	pthread_mutex_unlock(&grace->wait_lock);
}

#endif
