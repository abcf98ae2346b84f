/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which commands there are, for REPORT SUPPORTED OPERATION CODES. Without it the kernel takes WRITE SAME for granted,
 * and offers to zero blocks of a disk that cannot.
 */
#include "scsi_opcodes.h"

#include <string.h>

enum { ACTION = 0x1f, NONE = 0xff, R = false, W = true };

/* usage: a CDB whose set bits are those that mean something to us; its first byte, and an action, are the command's. */
struct row {
	bool changes;	/* only disks that can be written have it */
	uint8_t action; /* NONE: the opcode has none */
	uint8_t length;
	uint8_t usage[16];
};

/* clang-format off */
static const struct row rows[] = {
	{R, NONE,  6, {TEST_UNIT_READY}},
	{R, NONE,  6, {READ_6, 0x1f, 0xff, 0xff, 0xff}},
	{R, NONE,  6, {INQUIRY, 0x01, 0xff, 0xff, 0xff}},
	{R, NONE,  6, {MODE_SELECT_6, 0x11, 0, 0, 0xff}},
	{R, NONE,  6, {MODE_SENSE_6, 0, 0xff, 0xff, 0xff}},
	{R, NONE, 10, {READ_CAPACITY_10}},
	{R, NONE, 10, {READ_10, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff}},
	{R, NONE, 10, {SYNCHRONIZE_CACHE_10}},
	{R, NONE, 10, {MODE_SELECT_10, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff}},
	{R, NONE, 10, {MODE_SENSE_10, 0, 0xff, 0xff, 0, 0, 0, 0xff, 0xff}},
	{R, NONE, 16, {READ_16, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	{R, NONE, 16, {SYNCHRONIZE_CACHE_16}},
	{R, READ_CAPACITY_16, 16, {SERVICE_ACTION_IN_16, READ_CAPACITY_16, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
	{R, NONE, 12, {REPORT_LUNS, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}}, /* the kernel answers it */
	{R, REPORT_SUPPORTED_OPERATION_CODES, 12,
	 {MAINTENANCE_IN, REPORT_SUPPORTED_OPERATION_CODES, 0x07, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	{R, NONE, 12, {READ_12, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	{W, NONE,  6, {WRITE_6, 0x1f, 0xff, 0xff, 0xff}},
	{W, NONE, 10, {WRITE_10, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff}},
	{W, NONE, 10, {WRITE_SAME_10, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff}},
	{W, NONE, 10, {UNMAP, 0, 0, 0, 0, 0, 0, 0xff, 0xff}},
	{W, NONE, 16, {WRITE_16, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	{W, NONE, 16, {WRITE_SAME_16, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	{W, NONE, 12, {WRITE_12, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
};
/* clang-format on */

enum { ROWS = sizeof(rows) / sizeof(rows[0]), ALL_ROW = 8, ALL_HEAD = 4, ONE_HEAD = 4 };
_Static_assert(ALL_HEAD + ROWS * ALL_ROW <= OBD_SCSI_OPCODES_MAX, "the list fits its buffer");

static size_t report_all(bool writable, uint8_t *data)
{
	uint8_t *at = data + ALL_HEAD;
	size_t length;

	memset(data, 0, OBD_SCSI_OPCODES_MAX);
	for (size_t i = 0; i < ROWS; i++) {
		if (rows[i].changes && !writable)
			continue;
		at[0] = rows[i].usage[0];
		if (rows[i].action != NONE) {
			at[3] = rows[i].action;
			at[5] = 1; /* the service action is valid */
		}
		at[7] = rows[i].length;
		at += ALL_ROW;
	}
	length = (size_t)(at - data) - ALL_HEAD;
	data[2] = (uint8_t)(length >> 8);
	data[3] = (uint8_t)length;
	return ALL_HEAD + length;
}

static bool has_actions(uint8_t opcode)
{
	return opcode == SERVICE_ACTION_IN_16 || opcode == MAINTENANCE_IN;
}

static size_t report_one(uint8_t opcode, unsigned action, bool writable, uint8_t *data)
{
	enum { NOT_SUPPORTED = 1, SUPPORTED = 3 };

	memset(data, 0, OBD_SCSI_OPCODES_MAX);
	data[1] = NOT_SUPPORTED;
	for (size_t i = 0; i < ROWS; i++) {
		if (rows[i].usage[0] != opcode || (rows[i].action != NONE && rows[i].action != action) ||
		    (rows[i].changes && !writable))
			continue;
		data[1] = SUPPORTED;
		data[3] = rows[i].length;
		memcpy(data + ONE_HEAD, rows[i].usage, rows[i].length);
		return ONE_HEAD + rows[i].length;
	}
	return ONE_HEAD;
}

size_t obd_scsi_report_opcodes(const uint8_t *cdb, bool writable, uint8_t *data)
{
	enum { ALL = 0, OPCODE = 1, OPCODE_AND_ACTION = 2, EITHER = 3 };
	const unsigned option = cdb[2] & 7, action = (unsigned)cdb[4] << 8 | cdb[5];
	const bool actions = has_actions(cdb[3]);

	if (option == ALL)
		return report_all(writable, data);
	if (option > EITHER || (option == OPCODE && actions) || (option == OPCODE_AND_ACTION && !actions))
		return 0;
	return report_one(cdb[3], action, writable, data);
}
