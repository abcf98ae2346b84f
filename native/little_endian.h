/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_LITTLE_ENDIAN_H
#define OBD_LITTLE_ENDIAN_H
#include <endian.h>
#include <stdint.h>
#include <string.h>

/* Fields of a record, wherever they lie: all formats here are little-endian, none is aligned. */
static inline uint32_t obd_le32(const void *record, size_t offset)
{
	uint32_t value;

	memcpy(&value, (const uint8_t *)record + offset, sizeof(value));
	return le32toh(value);
}

static inline uint64_t obd_le64(const void *record, size_t offset)
{
	uint64_t value;

	memcpy(&value, (const uint8_t *)record + offset, sizeof(value));
	return le64toh(value);
}

static inline void obd_put_le32(void *record, size_t offset, uint32_t value)
{
	value = htole32(value);
	memcpy((uint8_t *)record + offset, &value, sizeof(value));
}

static inline void obd_put_le64(void *record, size_t offset, uint64_t value)
{
	value = htole64(value);
	memcpy((uint8_t *)record + offset, &value, sizeof(value));
}

#endif
