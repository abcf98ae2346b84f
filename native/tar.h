/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_TAR_H
#define OBD_TAR_H
#include "blob.h"

/**
 * Looks for the one-member tar wrapper at the start of blob.
 * 1: found, the payload is [*base, *base + *size); 0: not a tar; -errno: unreadable or a tar we must refuse.
 */
int obd_tar_probe(const struct obd_blob *blob, uint64_t *base, uint64_t *size, struct obd_error *err);

enum { OBD_TAR_HEADERS = 1536 };

/** What a wrapper of ours begins with: the pax header, its record, the member's header. The payload follows. */
void obd_tar_headers(uint8_t headers[OBD_TAR_HEADERS], uint64_t size);
/** Bytes of the whole tar with a payload of size bytes; what lies behind the payload is zeros. */
uint64_t obd_tar_size(uint64_t size);

#endif
