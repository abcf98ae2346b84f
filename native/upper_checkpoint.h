/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_UPPER_CHECKPOINT_H
#define OBD_UPPER_CHECKPOINT_H
#include <stdbool.h>
#include <stdint.h>

/*
 * What a flush has confirmed, said in the index file: in the unused rest of its header, where the original never looks.
 * There are two records, in sectors of their own, written in turn; so one of them is whole whatever a power cut does.
 *
 *     offset  size  field of a record (at 2048 and 2560 of the index file)
 *          0     8  "OBDCHKPT"
 *          8     8  sequence: the higher one counts; its lowest bit says which of the two places it has
 *         16     8  index_end: entries in front of it are confirmed
 *         24     8  data_end: bytes of the data file that are confirmed
 *         32     8  index_begin: index_end of the record before
 *         40    16  boot: which start of the kernel wrote it
 *         56     4  state
 *         60     4  CRC-32C of the entries in [index_begin, index_end)
 *         64     4  CRC-32C of the 64 bytes above
 */
enum obd_checkpoint_state {
	OBD_CHECKPOINT_OPEN = 1,   /**< somebody writes; entries behind index_end are good for as long as that boot */
	OBD_CHECKPOINT_CLOSED = 2, /**< nobody of ours does; entries behind index_end are the original's */
	OBD_CHECKPOINT_FAILED = 3, /**< the disk refused a flush: nothing behind index_end is to be believed */
};

struct obd_checkpoint {
	uint64_t sequence, index_end, data_end, index_begin;
	uint8_t boot[16];
	uint32_t state;
	uint32_t entries_crc;
};

enum { OBD_CHECKPOINT_SECTOR = 512 };

/** Where in the index file the record of that sequence belongs. */
uint64_t obd_checkpoint_offset(uint64_t sequence);
/** to: one sector. */
void obd_checkpoint_fill(uint8_t *to, const struct obd_checkpoint *checkpoint);
/**
 * The latest record that is whole and whose entries are all there. header: the index file's first 4096 bytes.
 * 1 found, 0 none, -errno.
 */
int obd_checkpoint_latest(const uint8_t *header, int index_fd, struct obd_checkpoint *ret);
/** CRC of a range of the index file. 0 or -errno; -EIO when it ends before to. */
int obd_checkpoint_crc(int index_fd, uint64_t from, uint64_t to, uint32_t *ret);
/** Which start of the kernel this is; zeros when nobody says, and zeros equal nothing. */
void obd_checkpoint_boot(uint8_t *ret);
bool obd_checkpoint_same_boot(const struct obd_checkpoint *checkpoint);

#endif
