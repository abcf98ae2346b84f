/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_TEST_H
#define OBD_TEST_H
/*
 * What tests and benchmarks reach of the core's inside, beside obd.h and with no promise to anybody. Bound by
 * tests/support/native_test.py.
 */
#include "obd.h"

/* ---- index: test_index.c ---- */

struct obd_index;
/** layer i has counts[i] segments; keys and maps hold those of all layers in turn. */
OBD_PUBLIC int obd_test_index_create(const uint64_t *keys, const uint64_t *maps, const size_t *counts, unsigned layers,
				     struct obd_index **ret);
OBD_PUBLIC void obd_test_index_destroy(struct obd_index *index);
OBD_PUBLIC size_t obd_test_index_count(const struct obd_index *index);
OBD_PUBLIC uint64_t obd_test_index_memory(const struct obd_index *index);
OBD_PUBLIC void obd_test_index_copy(const struct obd_index *index, uint64_t *keys, uint64_t *maps);
OBD_PUBLIC void obd_test_index_find(const struct obd_index *index, const uint64_t *sectors, size_t count,
				    uint64_t *ret);
OBD_PUBLIC void obd_test_index_find_plain(const struct obd_index *index, const uint64_t *sectors, size_t count,
					  uint64_t *ret);
OBD_PUBLIC const char *obd_test_index_version(void);

/* ---- ring: ring.c ---- */

/** How the kernel's side looks at the tail and moves the head. */
OBD_PUBLIC uint32_t obd_test_load_acquire(const void *word);
OBD_PUBLIC void obd_test_store_release(void *word, uint32_t value);

/* ---- formats: crc32c.c, layer.c ---- */

/** Version 0 is the plain one. 0, -ENOTSUP when this CPU cannot run it, -ENOENT behind the last one. */
OBD_PUBLIC int obd_test_crc32c(unsigned version, const void *data, size_t count, uint32_t seed, uint32_t *ret);
/** Reads the unwrapped LSMT stream; count or -errno, -EINVAL beyond its end. */
OBD_PUBLIC int64_t obd_test_layer_pread(const struct obd_layer *layer, void *buf, size_t count, uint64_t offset);

/* ---- stack: feed.c ---- */

/** No more than so many segments of a layer are held while layers are gone through; 0: as many as always. */
OBD_PUBLIC void obd_test_feed_budget(size_t segments);

/* ---- upper: test_upper_index.c, upper_checkpoint.c, upper_compact.c, upper_flush.c ---- */

struct obd_upper_index;
OBD_PUBLIC int obd_test_upper_index_create(int exact, struct obd_upper_index **ret);
OBD_PUBLIC void obd_test_upper_index_destroy(struct obd_upper_index *index);
/** lost[0, 2 * room) gets (msector, sectors) of what nobody can reach any more; how many there were, or -errno. */
OBD_PUBLIC int obd_test_upper_index_set(struct obd_upper_index *index, uint64_t sector, uint64_t length, uint64_t map,
					uint64_t *lost, unsigned room);
OBD_PUBLIC int obd_test_upper_index_unset(struct obd_upper_index *index, uint64_t sector, uint64_t end);
OBD_PUBLIC unsigned obd_test_upper_index_find(const struct obd_upper_index *index, uint64_t sector, uint64_t end,
					      uint64_t *keys, uint64_t *maps, unsigned count);
OBD_PUBLIC void obd_test_upper_index_totals(const struct obd_upper_index *index, uint64_t *segments, uint64_t *mapped,
					    uint64_t *memory);

/** From now on this is another start of the kernel, 16 bytes; NULL: the real one again. */
OBD_PUBLIC void obd_test_upper_boot(const uint8_t *boot);
/** Index files of at least so many entries are compacted, if that makes them shorter; 0: of as many as always. */
OBD_PUBLIC void obd_test_upper_compact(uint64_t entries);
/** What is changed is flushed after so long; 0: after what it always is. For layers that are opened from now on. */
OBD_PUBLIC void obd_test_upper_timer(unsigned ms);

#endif
