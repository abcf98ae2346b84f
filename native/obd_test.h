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

#endif
