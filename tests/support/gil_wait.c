/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a Python: how long its threads wait for the interpreter's lock. gil_wait.py compiles it.
 *
 * CPython waits for that lock, and for nothing else, in pthread_cond_timedwait(); what calls it out of libobd.so waits
 * for something else and is not counted. $GIL_WAIT names a file of three numbers of eight bytes, kept up to date: waits,
 * nanoseconds waited, nanoseconds of CPU time spent in waiting.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WAITS, WAITED, CPU, NUMBERS };

static uint64_t nowhere[NUMBERS], *numbers = nowhere;
static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

static uint64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("GIL_WAIT");
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
	void *memory = MAP_FAILED;

	real = (__typeof__(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
	if (fd >= 0 && !ftruncate(fd, sizeof(nowhere)))
		memory = mmap(NULL, sizeof(nowhere), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory != MAP_FAILED)
		numbers = memory;
}

/* Whether the caller is the interpreter. */
static bool is_python(const void *caller)
{
	Dl_info info;

	return dladdr(caller, &info) && info.dli_fname && !strstr(info.dli_fname, "libobd");
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
	uint64_t began, cpu;
	int r;

	if (!is_python(__builtin_return_address(0)))
		return real(cond, mutex, until);
	began = now(CLOCK_MONOTONIC);
	cpu = now(CLOCK_THREAD_CPUTIME_ID);
	r = real(cond, mutex, until);
	__atomic_fetch_add(&numbers[WAITS], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&numbers[WAITED], now(CLOCK_MONOTONIC) - began, __ATOMIC_RELAXED);
	__atomic_fetch_add(&numbers[CPU], now(CLOCK_THREAD_CPUTIME_ID) - cpu, __ATOMIC_RELAXED);
	return r;
}
