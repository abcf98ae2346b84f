/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_LSMT_RECORD_H
#define OBD_LSMT_RECORD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * LSMT's record, the 4096 bytes that are header and trailer, and its entry. Read-only layers, writable ones and the
 * tools share them.
 *
 *     offset  size  field of a record                entry    bits  field
 *          0    24  magic                            word 0   0-49  sector (2^50 - 1: padding)
 *         24     4  390, the bytes in use                    50-63  length in sectors
 *         28     4  flags                            word 1   0-54  sector in the stream
 *         32     8  index_offset                                55  zeroed
 *         40     8  index_size: entries                      56-63  tag
 *         48     8  virtual_size
 *         56    37  uuid, text
 *         93    37  uuid of the layer below
 *        132     2  version 1, sub-version 1
 *        134   256  commit message
 */
enum {
	OBD_SECTOR = 512,
	OBD_LSMT_RECORD = 4096,
	OBD_LSMT_ENTRY = 16,
	OBD_LSMT_DATA_SECTOR = 8,	/**< where data begins */
	OBD_LSMT_ENTRIES_MAX = 1000000, /**< of a read-only layer, padding included */
	OBD_LSMT_MESSAGE = 256,
	OBD_LSMT_LENGTH_MAX = 16383, /**< sectors of one entry */
	OBD_UUID_LENGTH = 36,
};

enum { OBD_LSMT_HEADER = 1, OBD_LSMT_DATA = 2, OBD_LSMT_SEALED = 4, OBD_LSMT_SPARSE = 16 };

#define OBD_LSMT_SECTORS_MAX (UINT64_C(1) << 50)
#define OBD_LSMT_PADDING (OBD_LSMT_SECTORS_MAX - 1)

struct obd_lsmt_record {
	uint32_t flags;
	uint64_t index_offset, index_size, virtual_size;
	const char *uuid, *parent_uuid; /**< text; NULL or "": none */
	const void *message;
	size_t message_count; /**< at most OBD_LSMT_MESSAGE */
};

/** Writes all 4096 bytes. */
void obd_lsmt_record_fill(uint8_t *to, const struct obd_lsmt_record *record);
bool obd_lsmt_has_magic(const uint8_t *record);
/** Why a device of that many bytes cannot be; NULL when it can. */
const char *obd_lsmt_size_fault(uint64_t virtual_size);

/** map: as in index.h, what is no tag of it. */
void obd_lsmt_entry_fill(uint8_t *to, uint64_t sector, uint64_t length, uint64_t map);
/** Why the segment [sector, sector + length) at place cannot be; NULL when it can. data_end: sectors. */
const char *obd_lsmt_entry_fault(uint64_t sector, uint64_t length, uint64_t place, bool zeroed, uint64_t data_end);

/** ret: 40 bytes, zeroed; stays "" for the null uuid and for what is none. */
void obd_uuid_parse(const uint8_t *text, char *ret);
/** A random one, version 4; ret: 40 bytes. 0 or -errno. */
int obd_uuid_random(char *ret);

#endif
