/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_CRC32C_H
#define OBD_CRC32C_H
#include <stddef.h>
#include <stdint.h>

/**
 * Raw CRC-32C (reflected 0x82F63B78): no inversion before or after; the register starts at seed and is returned as is.
 * raw("123456789", 0) == 0x58E3FA20.
 */
uint32_t obd_crc32c(const void *data, size_t count, uint32_t seed);

/** The plain version (id 0), the oracle of the fast ones. */
uint32_t obd_crc32c_plain(const void *data, size_t count, uint32_t seed);
const char *obd_crc32c_version(void);

#endif
