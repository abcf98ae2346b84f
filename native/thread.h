/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_THREAD_H
#define OBD_THREAD_H
#include <pthread.h>
#include <signal.h>

/**
 * As pthread_create, for threads that Python knows nothing of: signals are for its own. But SIGBUS, which is for whom
 * it strikes: see pages.h.
 */
static inline int obd_thread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *argument)
{
	sigset_t others, before;
	int r;

	sigfillset(&others);
	sigdelset(&others, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &others, &before);
	r = pthread_create(thread, attr, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

#endif
