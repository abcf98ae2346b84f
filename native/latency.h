/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_LATENCY_H
#define OBD_LATENCY_H
#include "obd.h"

/** One writer at a time, whoever that is; anybody reads with obd_latency_sum meanwhile. */
static inline void obd_latency_add(struct obd_latency *latency, uint64_t ns)
{
	const uint64_t units = ns >> 10;
	unsigned bucket = units ? 64 - (unsigned)__builtin_clzll(units) : 0;

	if (bucket >= OBD_LATENCY_BUCKETS)
		bucket = OBD_LATENCY_BUCKETS - 1;
	__atomic_store_n(&latency->total_ns, latency->total_ns + ns, __ATOMIC_RELAXED);
	__atomic_store_n(&latency->buckets[bucket], latency->buckets[bucket] + 1, __ATOMIC_RELAXED);
}

static inline void obd_latency_sum(struct obd_latency *sum, const struct obd_latency *more)
{
	sum->total_ns += __atomic_load_n(&more->total_ns, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < OBD_LATENCY_BUCKETS; i++)
		sum->buckets[i] += __atomic_load_n(&more->buckets[i], __ATOMIC_RELAXED);
}

#endif
