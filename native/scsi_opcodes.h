/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_SCSI_OPCODES_H
#define OBD_SCSI_OPCODES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum obd_scsi_opcode {
	TEST_UNIT_READY = 0x00,
	READ_6 = 0x08,
	WRITE_6 = 0x0a,
	INQUIRY = 0x12,
	MODE_SELECT_6 = 0x15,
	MODE_SENSE_6 = 0x1a,
	READ_CAPACITY_10 = 0x25,
	READ_10 = 0x28,
	WRITE_10 = 0x2a,
	WRITE_VERIFY_10 = 0x2e,
	SYNCHRONIZE_CACHE_10 = 0x35,
	WRITE_SAME_10 = 0x41,
	UNMAP = 0x42,
	MODE_SELECT_10 = 0x55,
	MODE_SENSE_10 = 0x5a,
	READ_16 = 0x88,
	WRITE_16 = 0x8a,
	WRITE_VERIFY_16 = 0x8e,
	SYNCHRONIZE_CACHE_16 = 0x91,
	WRITE_SAME_16 = 0x93,
	SERVICE_ACTION_IN_16 = 0x9e,
	REPORT_LUNS = 0xa0,
	MAINTENANCE_IN = 0xa3,
	READ_12 = 0xa8,
	WRITE_12 = 0xaa,
	WRITE_VERIFY_12 = 0xae,
};

/* service actions of SERVICE_ACTION_IN_16 and MAINTENANCE_IN */
enum { READ_CAPACITY_16 = 0x10, REPORT_SUPPORTED_OPERATION_CODES = 0x0c };

enum { OBD_SCSI_OPCODES_MAX = 512 };

/**
 * The answer to REPORT SUPPORTED OPERATION CODES in data[0, OBD_SCSI_OPCODES_MAX); its bytes, 0 for an invalid field.
 */
size_t obd_scsi_report_opcodes(const uint8_t *cdb, bool writable, uint8_t *data);

#endif
