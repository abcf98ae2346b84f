/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_TAR_H
#define OBD_TAR_H
#include "blob.h"

/**
 * Looks for the one-member tar wrapper at the start of blob.
 * 1: found, the payload is [*base, *base + *size); 0: not a tar; -errno: unreadable or a tar we must refuse.
 */
int obd_tar_probe(const struct obd_blob *blob, uint64_t *base, uint64_t *size, struct obd_error *err);

#endif
